"""The benchmarks run, and compare what computes the same. What they measure is not tested."""

import json
import os
import subprocess
import sys

import cv2
import pytest
from builders import REPOSITORY

pytestmark = pytest.mark.slow


def test_relation_losses_are_compared_with_the_alternatives(tmp_path):
    script = REPOSITORY / 'tools' / 'benchmarks' / 'relation_losses.py'
    command = [sys.executable, '-W', 'ignore', str(script), '--device', 'cpu', '--cases', '9x2', '5x1', '--seconds', '0.01']
    done = subprocess.run(
        [*command, '--out', str(tmp_path)],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    saved = json.loads((tmp_path / 'relation_losses_cpu.json').read_text())
    assert {'device', 'torch', 'python', 'date', 'dtype'} <= set(saved['machine'])
    cases = {(result['kind'], result['loss'], result['tokens'], result['images']) for result in saved['results']}
    assert len(cases) == 3 * 2 * 2
    assert all(result['seconds'] > 0 and 'failed' not in result for result in saved['results'])
    assert '| angle | 9 | 2 |' in done.stdout
    assert cv2.imread(str(tmp_path / 'relation_losses_cpu.png')).std() > 10
