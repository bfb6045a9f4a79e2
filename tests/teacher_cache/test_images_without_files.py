"""Data sets whose images have no path, such as CIFAR10: their views, their fingerprint, and a training from a cache."""

import pickle

import numpy as np
import pytest
from builders import training_config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.datasets import CIFAR10
from mmpretrain.registry import DATASETS
from training_variants import use_repeatable_views

from serkd_mm.teacher_cache import RepeatableViews
from serkd_mm.teacher_cache.fingerprints import data_differences, data_fingerprint

pytestmark = pytest.mark.usefixtures('runner_scope')

PIPELINE = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]


@DATASETS.register_module()
class SmallCIFAR10(CIFAR10):
    """CIFAR10 with files of four images, whose checksums are not compared."""

    train_list = (('data_batch_1', None), ('data_batch_2', None))
    test_list = (('test_batch', None),)
    meta = dict(filename='batches.meta', key='label_names')


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    root = tmp_path_factory.mktemp('cifar')
    folder = root / SmallCIFAR10.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ('data_batch_1', 'data_batch_2', 'test_batch'):
        images = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({'data': images, 'labels': [0, 1, 2, 3]}))
    (folder / 'batches.meta').write_bytes(pickle.dumps({'label_names': list('abcd')}))
    return dict(type='SmallCIFAR10', data_root=str(root), split='train', pipeline=PIPELINE)


def test_their_number_is_compared(config):
    DefaultScope.get_instance('number', scope_name='mmpretrain')  # A Runner sets it; mmengine's wrappers need it.
    stored = data_fingerprint(config, RepeatableViews(config, num_views=1).dataset)
    assert data_differences(stored, data_fingerprint(config, DATASETS.build(config))) == []
    twice = dict(type='RepeatDataset', times=2, dataset=config)
    (difference,) = data_differences(stored, data_fingerprint(twice, DATASETS.build(twice)))
    assert difference.startswith('the data set had 8 images and has 16')


def test_they_are_trained_on(config, tmp_path):
    training = training_config('', tmp_path, val_cfg=None, val_dataloader=None, val_evaluator=None)
    training.train_dataloader.dataset = config
    use_repeatable_views(training, num_views=2, augments=dict(augments=dict(type='Mixup', alpha=0.8)))
    runner = Runner.from_cfg(training)
    runner.train()
    assert runner.iter == 4
