"""The tutorial runs as written."""

import re

import pytest
from builders import copy_repository
from pages import run_page


@pytest.mark.slow
def test_tutorial_runs_as_written(tmp_path):
    clone = copy_repository(tmp_path / 'clone')
    run_page('tutorial.md', clone)
    assert (clone / 'work_dirs' / 'compare' / 'compare.png').is_file()
    assert list((clone / 'work_dirs' / 'superpixels').glob('*.png'))
    assert list((clone / 'work_dirs' / 'student').glob('published*.pth'))
    table = (clone / 'work_dirs' / 'compare' / 'compare.md').read_text()
    accuracy = {name: float(best) for name, best in re.findall(r'^\| (\w+) \| ([\d.]+) ', table, re.MULTILINE)}
    assert accuracy['teacher'] > 60
    assert accuracy['student'] > 25  # 10 is chance
