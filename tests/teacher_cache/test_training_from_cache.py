"""A real training from a cache: exact resuming, moving averages, worker processes, and mixed precision."""

import shutil

import pytest
import torch
from builders import write_images
from cache_tool import cache_teacher, save_teacher, train, write_config
from checkpoints import assert_equal_files
from mmengine.config import Config

from serkd_mm.analysis import RunLog

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('runner_scope')]

LIVE = {'model.teacher.cache': None, 'train_dataloader.dataset.cache': None}
AUGMENTS = dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)])

METHODS = {
    'mimicking': ('ViTKDMimickingLoss', 'tokens'),
    'generation': ('ViTKDGenerationLoss', 'tokens'),
    'dist': ('DISTLoss', 'logits'),
    'dkd': ('DKDLoss', 'logits'),
    'nkd': ('NKDLoss', 'logits'),
    'dense': ('DenseLogitsLoss', 'dense_grid'),
}
DENSE_TAPS = {
    'model.student.taps.dense': 'backbone.layers[-1] | head.layers.head_dist',
    'model.teacher.taps.dense': 'backbone.layers[-1]|head.fc',
    'model.views.dense_grid': dict(
        tap='dense', tokenizer=dict(type='PatchTokenizer'), merger=dict(type='AvgPoolMerger', cell=2)
    ),
}


def write_source(folder, **changes):
    """Write images, a teacher and a config, with all losses and mixing; return the config's path."""
    root, teacher = write_images(folder / 'images', per_class=3), save_teacher(folder / 'teacher.pth')
    settings = {'model.student.model.train_cfg': AUGMENTS, 'log_processor.window_size': 1, **changes}
    return write_config(folder / 'config.py', root, teacher, **settings)


def test_resuming_is_exact_with_moving_averages_and_worker_processes(tmp_path, monkeypatch):
    cache_teacher(monkeypatch, write_source(tmp_path), '--out', tmp_path / 'cache', '--views', 2)
    hooks = [*Config.fromfile(tmp_path / 'cache' / 'train.py').custom_hooks, dict(type='EMAHook', momentum=0.1)]
    settings = {'custom_hooks': hooks, 'train_cfg.max_epochs': 3, 'train_cfg.val_interval': 9}
    train(tmp_path / 'cache' / 'train.py', tmp_path / 'whole', **settings)
    workers = {'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True}
    (tmp_path / 'resumed').mkdir()
    first = shutil.copy(tmp_path / 'whole' / 'epoch_1.pth', tmp_path / 'resumed')
    start = {'load_from': str(first), 'resume': True}
    resumed = train(tmp_path / 'cache' / 'train.py', tmp_path / 'resumed', **settings, **start, **workers)
    assert type(resumed.model.teacher).__name__ == 'CachedTeacher'
    assert_equal_files(tmp_path / 'resumed', tmp_path / 'whole')
    names = torch.load(tmp_path / 'whole' / 'epoch_3.pth', weights_only=True)
    assert 'ema_state_dict' in names
    assert not [name for name in names['state_dict'] if 'teacher' in name]


@pytest.mark.parametrize('options', [{}, {'optim_wrapper.type': 'AutocastOptimWrapper'}])
def test_losses_equal_those_with_the_teacher(options, tmp_path, monkeypatch):
    # Not in bfloat16, whose rounding every further loss amplifies.
    losses, taps = ({}, {}) if options else (METHODS, DENSE_TAPS)
    added = {f'model.losses.loss_{name}': dict(type=kind, on=source) for name, (kind, source) in losses.items()}
    source = write_source(tmp_path, **options, **added, **taps)
    flags = ['--dtype', 'float32', '--tokens', 'full', '--batch-size', '4', *(['--amp'] if options else [])]
    cache_teacher(monkeypatch, source, '--out', tmp_path / 'cache', '--views', 2, *flags)
    logs = {}
    for name, changes in {'cached': {}, 'live': LIVE}.items():
        train(tmp_path / 'cache' / 'train.py', tmp_path / name, **changes, **{'train_cfg.max_epochs': 3})
        logs[name] = RunLog(tmp_path / name)
    assert len(logs['live'].train) == 9
    assert {f'loss_{name}' for name in ('cls', 'kd', 'feat', 'rd', 'ra', *losses)} < set(logs['live'].terms)
    for one, other in zip(logs['cached'].train, logs['live'].train, strict=True):
        for term in logs['live'].terms:
            # The teacher saw the images in other batches, and random weights make superpixels that are nearly equal; the
            # difference grows from step to step.
            tolerance = 2e-2 if options else 1e-4 if one['step'] <= 3 else 1e-3
            assert one[term] == pytest.approx(other[term], rel=tolerance), (term, one['step'])
