"""tools/experiments/zoo.py: the table of teachers from the zoo of mmpretrain."""

import json
import re

import pytest
from builders import CONFIGS, REPOSITORY, run_python


def start(tmp_path, *names):
    paths = ['--work-dir', tmp_path / 'work', '--out', tmp_path / 'zoo.md']
    return run_python('tools/experiments/zoo.py', '--names', *names, *paths)


@pytest.mark.slow
def test_teachers_are_tested_once_and_errors_are_listed(tmp_path):
    works, resized, fails = (
        'resnet18_8xb32_in1k',
        'mlp-mixer-base-p16_3rdparty_64xb64_in1k',
        'cn-clip_resnet50_zeroshot-cls_cifar100',
    )
    printed = start(tmp_path, works, resized, fails)
    assert 'backbone.layer3, works' in printed
    page = (tmp_path / 'zoo.md').read_text()
    assert '**2 of 3 models work**' in page
    assert f'| {works} | 1 | 11.7 | `backbone.layer3` | `head` | 112 | yes |' in page
    assert f'| {resized} | 1 | 59.9 | `backbone.layers[11]` | `head` | 224 | yes |' in page
    assert "type='ChineseCLIP' is not a Classifier" in page
    saved = tmp_path / 'work' / f'teacher {works}.json'
    saved.write_text(json.dumps({**json.loads(saved.read_text()), 'size': 7}))
    start(tmp_path, works)
    assert '| `head` | 7 | yes |' in (tmp_path / 'zoo.md').read_text()


def test_counts_of_the_published_table():
    lines = (CONFIGS / 'serkd' / 'zoo.md').read_text().splitlines()
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in lines if line.startswith('|')][2:]
    models = sum(int(row[1]) for row in rows)
    working = sum(int(row[1]) for row in rows if row[-1] == 'yes')
    assert f'**{working} of {models} models work** ({100 * working / models:.1f} %), {len(rows)} of which' in '\n'.join(
        lines
    )
    assert working >= 0.9 * models
    assert f'{working} of the {models} entries' in (REPOSITORY / 'README.md').read_text()
    assert not any('/site-packages' in line for line in lines)


def test_counts_of_the_published_table_of_timm():
    page = (CONFIGS / 'serkd' / 'timm.md').read_text()
    teachers, students = (
        [[cell.strip() for cell in line.split('|')[1:-1]] for line in part.splitlines() if line.startswith('|')][2:]
        for part in page.split('Students,')
    )
    for rows, role in ((teachers, 'as teachers'), (students, 'as students')):
        working = [row for row in rows if row[-1] == 'yes']
        assert f'**{len(working)} of {len(rows)} models work** ({100 * len(working) / len(rows):.1f} %) {role}' in page
        assert len({row[0] for row in rows}) == len(rows)
    assert len({row[1] for row in teachers if row[-1] == 'yes'}) == int(re.search(r'of (\d+) families', page)[1]) >= 25
    assert len(teachers) >= 60
    assert len(students) >= 15
    assert f'{len(teachers)} architectures of timm' in (REPOSITORY / 'docs/en/advanced_guides/reliability.md').read_text()


@pytest.mark.slow
def test_models_of_timm_as_teachers_and_students(tmp_path):
    paths = ['--work-dir', tmp_path / 'work', '--out', tmp_path / 'timm.md']
    printed = run_python('tools/experiments/zoo.py', '--models', 'timm', '--names', 'resnet18', *paths)
    assert 'student timm:resnet18: model.layer3, works' in printed
    page = (tmp_path / 'timm.md').read_text()
    assert '**1 of 1 models work** (100.0 %) as teachers' in page
    assert page.count('| resnet18 | resnet | 11.7 | `model.layer3` | `model` | 112 | yes |') == 2
