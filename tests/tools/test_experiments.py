"""The experiments with published results: they run, report and resume."""

import os
import signal
import subprocess
import sys

import cv2
import pytest
from builders import REPOSITORY, run_python, write_images

pytestmark = pytest.mark.slow

EXPERIMENTS = REPOSITORY / 'tools' / 'experiments'


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch):
    """Run on the CPU, as for the published results, even if there is a GPU."""
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '-1')


def test_quickstart_reports_and_resumes(tmp_path):
    short = ['train_cfg.max_epochs=2', 'train_cfg.val_interval=1', 'param_scheduler.0.end=1', 'param_scheduler.1.begin=1']
    short += ['train_dataloader.dataset.indices=100', 'val_dataloader.dataset.indices=100']
    work_dir = tmp_path / 'work'
    command = [EXPERIMENTS / 'quickstart.py', '--seeds', 0]
    command += ['--work-dir', work_dir, '--data-root', tmp_path / 'digits', '--cfg-options', *short]
    start = [sys.executable, *map(str, command)]
    with subprocess.Popen(start, stdout=subprocess.PIPE, text=True, start_new_session=True) as first:
        while '[2/4]' not in first.stdout.readline():
            assert first.poll() is None
        os.killpg(first.pid, signal.SIGKILL)
    assert not (work_dir / 'results.md').exists()
    output = run_python(*command)
    assert output.count('training, see') < 4
    assert len(list((tmp_path / 'digits' / 'few').glob('*/*.png'))) == 100
    table = (work_dir / 'results.md').read_text()
    assert table.split('\n\n')[1] in output
    rows = {
        row.split('|')[1].strip(): [cell.strip() for cell in row.split('|')[2:-1]]
        for row in table.splitlines()
        if '|' in row
    }
    assert rows['teacher'][2:4] == ['1', '311,338']
    for student in ('labels only', 'logit KD', 'SeRKD'):
        accuracy, spread, seeds, parameters, seconds = rows[f'student, {student}']
        assert 0 <= float(accuracy) <= 100
        assert float(seconds) > 0
        assert (spread, seeds, parameters) == ('-', '1', '44,612')
    picture = cv2.imread(str(work_dir / 'results.png'))
    assert picture.std() > 10
    assert 'Loaded the teacher from' in (work_dir / 'serkd_seed0' / 'train.log').read_text()

    output = run_python(*command)
    assert 'training, see' not in output
    assert (work_dir / 'results.md').read_text() == table


def test_cifar_reports(tmp_path):
    for split in ('train', 'val'):
        write_images(tmp_path / 'pictures' / split, per_class=3, size=32)
    short = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'param_scheduler.0.end=1', 'param_scheduler.1.begin=0']
    command = [EXPERIMENTS / 'cifar.py', '--pairs', 'cnn', '--methods', 'labels', 'serkd']
    command += ['--seeds', 0, 1, '--work-dir', tmp_path / 'work', '--data-root', tmp_path / 'pictures', '--cfg-options']
    output = run_python(*command, *short, 'train_dataloader.dataset.indices=8', 'default_hooks.checkpoint.interval=1')
    table = (tmp_path / 'work' / 'results.md').read_text()
    assert table.split('\n\n')[2] in output
    rows = [[cell.strip('| ') for cell in line.split(' | ')] for line in table.splitlines() if line.startswith('| ')]
    assert [row[0] for row in rows[2:]] == ['teacher', 'scratch (labels only)', 'SeRKD, superpixels']
    assert [row[3] for row in rows[2:]] == ['1', '2', '2']
    assert all(float(row[2]) >= 0 for row in rows[3:])
    assert rows[3][4] == rows[4][4] == '177,622'
    assert cv2.imread(str(tmp_path / 'work' / 'results.png')).std() > 10


def test_missing_data_root_is_reported(tmp_path):
    output = run_python(EXPERIMENTS / 'cifar.py', '--data-root', tmp_path, succeed=False)
    assert str(tmp_path / 'train') in output
