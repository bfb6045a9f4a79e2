"""What a practitioner does to a run: its launcher is killed, it is started twice, and the disk is full."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from builders import REPOSITORY, free_port, python_path, run_command, training_config

from serkd_mm.fileio import processes

pytestmark = pytest.mark.slow

TOOLS = REPOSITORY / 'tools'
SETTINGS = {
    'OMP_NUM_THREADS': '1',
    'CUDA_VISIBLE_DEVICES': '-1',
    'PYTHONPATH': python_path(REPOSITORY),
    'PYTHON': sys.executable,
}


run = partial(run_command, timeout=300, PYTHONPATH=python_path(REPOSITORY))


def wait_for(condition, seconds=200):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def children(pid):
    return [int(child) for child in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]


def end_of_ranks(config, limit, *flags):
    """Train with two ranks without a launcher that could end them, and a limit of KiB for files; return their output."""
    train = f'ulimit -f {limit}; exec $PYTHON {TOOLS}/train.py {config} --launcher pytorch {" ".join(flags)}'
    world = dict(SETTINGS, WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()))
    ranks = [
        subprocess.Popen(
            ['bash', '-c', train],
            env={**os.environ, **world, 'RANK': str(rank), 'LOCAL_RANK': str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=300)[1] for rank in ranks]
    # Rarely torch aborts a rank that exits, after its message, while threads of the process group still run.
    assert {rank.returncode for rank in ranks} <= {1, -signal.SIGABRT}, errors
    return errors


def test_run_survives_a_killed_launcher_a_second_start_and_a_full_disk(image_root, tmp_path):
    work_dir, config = tmp_path / 'work', tmp_path / 'config.py'
    settings = training_config(image_root, work_dir, **{'train_cfg.max_epochs': 10000})
    settings.dump(config)
    train = [TOOLS / 'dist_train.sh', config, 2]
    environment = {**os.environ, **SETTINGS, 'PORT': str(free_port())}
    with (tmp_path / 'first.log').open('w') as log:
        launcher = subprocess.Popen([str(part) for part in train], env=environment, stdout=log, stderr=log)
    wait_for((work_dir / 'epoch_1.pth').exists)
    ranks = {rank: processes._identity(rank) for rank in children(launcher.pid)}
    launcher.kill()
    launcher.wait()
    assert len(ranks) == 2
    saved = (work_dir / 'last_checkpoint').read_text()
    wait_for(lambda: (work_dir / 'last_checkpoint').read_text() != saved)  # The ranks go on without their launcher.

    (refused,) = {line for line in run(*train, '--resume', succeed=False).splitlines() if line.startswith('error: ')}
    assert f'{work_dir} is in use by process {min(ranks)} on ' in refused
    assert 'choose another --work-dir, or end that process first' in refused
    for rank in ranks:
        os.kill(rank, signal.SIGKILL)
    wait_for(lambda: not any(processes.process_is_alive(*rank) for rank in ranks.items()))

    last = Path((work_dir / 'last_checkpoint').read_text())
    files = {path.name: path.read_bytes() for path in work_dir.glob('*.pth')}
    for error in end_of_ranks(config, 100, '--resume'):
        assert 'Traceback' not in error
        (line,) = [line for line in error.splitlines() if line.startswith('error: ')]
        assert f'{work_dir}/epoch_' in line
        assert 'could not be written: File too large' in line
    assert {path.name: path.read_bytes() for path in work_dir.glob('*.pth')} == files
    assert not list(work_dir.glob('.*'))

    epoch = torch.load(last, weights_only=True)['meta']['epoch']
    output = run(*train, '--resume', '--cfg-options', f'train_cfg.max_epochs={epoch + 1}')
    assert f'resumed epoch: {epoch}' in output
    assert (work_dir / f'epoch_{epoch + 1}.pth').exists()
    assert not (work_dir / 'run.lock').exists()
