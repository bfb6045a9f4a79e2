"""A small classifier with the hooks of the runtime, and its images."""

from copy import deepcopy

import pytest
from builders import CONFIGS, PREPROCESSOR, TEACHER, write_images
from mmengine.config import Config

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=32), dict(type='PackInputs')]


@pytest.fixture(scope='module')
def runtime():
    """The runtime of the configs, whose hooks are tested here."""
    return Config.fromfile(CONFIGS / '_base_' / 'runtime.py')


@pytest.fixture
def root(tmp_path):
    for split in ('train', 'val'):
        write_images(tmp_path / split, per_class=1)
    return tmp_path


@pytest.fixture
def config_of(root, runtime):
    """Return a function that makes the config of a small classifier, trained for an epoch, from changes of settings."""

    def loader(split):
        dataset = dict(type='CustomDataset', data_root='', data_prefix=str(root / split), pipeline=PIPELINE)
        sampler = dict(type='DefaultSampler', shuffle=False)
        return dict(batch_size=4, num_workers=0, dataset=dataset, sampler=sampler)

    def make(**changes):
        config = Config(
            dict(
                default_scope='mmpretrain',
                default_hooks=deepcopy(runtime.default_hooks),
                custom_hooks=deepcopy(runtime.custom_hooks),
                model=deepcopy(TEACHER),
                data_preprocessor=dict(PREPROCESSOR),
                work_dir=str(root / 'work'),
                train_cfg=dict(by_epoch=True, max_epochs=1),
                train_dataloader=loader('train'),
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
                **{f'{split}_dataloader': loader('val') for split in ('val', 'test')},
                **{f'{split}_evaluator': dict(type='Accuracy', topk=1) for split in ('val', 'test')},
                **{f'{split}_cfg': {} for split in ('val', 'test')},
            )
        )
        config.merge_from_dict(changes)
        return config

    return make
