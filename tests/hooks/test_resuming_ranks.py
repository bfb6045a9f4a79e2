"""Resuming with ``tools/dist_train.sh``: as many ranks continue exactly, others are refused or follow the schedule."""

import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
from builders import REPOSITORY, python_path, training_config, write_images
from checkpoints import assert_equal_files, load

pytestmark = pytest.mark.slow

STOP = """
import os

from mmengine.hooks import Hook
from mmpretrain.registry import HOOKS


@HOOKS.register_module()
class Stop(Hook):
    priority = 'HIGHEST'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == int(os.environ['STOP']):
            os._exit(9)
"""
BY_EPOCH = {
    'train_cfg.max_epochs': 3,
    'param_scheduler': [
        {'type': 'LinearLR', 'start_factor': 0.1, 'by_epoch': True, 'end': 2, 'convert_to_iter_based': True},
        {'type': 'CosineAnnealingLR', 'by_epoch': True, 'begin': 2, 'convert_to_iter_based': True},
    ],
}


@pytest.fixture
def folder(tmp_path):
    """Write 24 images, a config with RRD, Mixup and an EMA, and a hook that ends the process as a kill does."""
    root = write_images(tmp_path / 'images', per_class=6)
    (tmp_path / 'stop_hook.py').write_text(STOP)
    changes = {
        'train_dataloader.batch_size': 3,
        'model.student.model.train_cfg': {'augments': [{'type': 'Mixup', 'alpha': 0.8}]},
        'model.losses.loss_rrd': {'type': 'RRDLoss', 'on': 'tokens', 'queue_size': 20, 'embed_dim': 8},
        'val_cfg': None,
        'val_dataloader': None,
        'val_evaluator': None,
    }
    config = training_config(root, tmp_path, **BY_EPOCH, **changes)
    config.custom_imports = dict(imports=['serkd_mm', 'stop_hook'], allow_failed_imports=False)
    config.custom_hooks = [*config.custom_hooks, dict(type='EMAHook', momentum=0.1), dict(type='Stop')]
    config.dump(tmp_path / 'config.py')
    return tmp_path


def train(folder, ranks, work_dir, *flags, stop=-1):
    """Run ``tools/dist_train.sh`` and return its exit status and output."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        settings = {'PORT': str(free.getsockname()[1]), 'STOP': str(stop)}
    done = subprocess.run(
        ['bash', 'tools/dist_train.sh', folder / 'config.py', str(ranks), '--work-dir', folder / work_dir, *flags],
        cwd=REPOSITORY,
        env={**os.environ, **settings, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': python_path(folder), 'PYTHON': sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout


def rates(work_dir):
    """The logged learning rates of all starts by iteration."""
    entries = {}
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            entries[entry['step']] = entry['lr']
    return entries


def test_ranks_resume_exactly_or_are_refused_or_continue_the_schedule(folder):
    status, output = train(folder, 2, 'whole')
    assert status == 0, output[-3000:]
    assert train(folder, 2, 'parts', stop=5)[0] != 0
    assert sorted(path.name for path in (folder / 'parts').glob('*.pth')) == ['epoch_1.pth']
    shutil.copytree(folder / 'parts', folder / 'one')
    status, output = train(folder, 2, 'parts', '--resume')
    assert status == 0, output[-3000:]
    assert_equal_files(folder / 'parts', folder / 'whole')
    final = load(folder / 'parts' / 'epoch_3.pth')
    assert final['meta']['iter'] == 12
    assert final['state_dict']['distill.losses.loss_rrd.patches.num_enqueued'] == 3 * 24

    status, output = train(folder, 1, 'one', '--resume')
    assert status != 0
    assert '2 and 1 ranks (processes), 4 and 8 iterations per epoch' in output
    assert '--resume-elastic' in output
    status, output = train(folder, 1, 'one', '--resume', '--resume-elastic')
    assert status == 0, output[-3000:]
    assert train(folder, 1, 'one_whole')[0] == 0
    resumed, expected = rates(folder / 'one'), rates(folder / 'one_whole')
    assert max(resumed) == max(expected) == 24
    assert [resumed[step] for step in range(9, 25)] == pytest.approx([expected[step] for step in range(9, 25)])
    assert len({expected[step] for step in range(9, 25)}) > 12
