"""A config whose parts do not fit together for repeatable views or a teacher cache is refused before anything is built."""

import copy
import re

import pytest
from builders import training_config
from mmengine.config import Config
from training_variants import use_repeatable_views

from serkd_mm.config_errors import ConfigError
from serkd_mm.runner import check_config

AUGMENTS = dict(augments=[dict(type='Mixup', alpha=0.8)])


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    """A training from repeatable views that is right."""
    root = tmp_path_factory.mktemp('config')
    config = training_config(root / 'images', root / 'work')
    use_repeatable_views(config, num_views=2, augments=AUGMENTS)
    config.dump(root / 'config.py')
    return Config.fromfile(root / 'config.py')


def check(base, options):
    config = copy.deepcopy(base)
    config.merge_from_dict(options)
    check_config(config, base, options)


CACHE = {'model.teacher.cache': 'data/x', 'train_dataloader.dataset.cache': 'data/x'}
FITTING = {
    'live teacher': {},
    'hooks': {
        'custom_hooks': [
            dict(type='SwitchRecipeHook', schedule=[dict(action_epoch=2, loss=dict(type='CrossEntropyLoss'))]),
            dict(type='SuperpixelVisualizationHook'),
        ]
    },
    'cache': CACHE,
    'odd batch without mixing': {'train_dataloader.dataset.augments': None, 'train_dataloader.batch_size': 3},
    'preprocessor in the student': {
        'model.student.model.data_preprocessor': dict(type='ViewPreprocessor', num_classes=4, to_onehot=True),
        'model.data_preprocessor': dict(type='ClsDataPreprocessor'),
    },
    'ordinary training': {
        'train_dataloader.dataset': dict(_delete_=True, type='CustomDataset'),
        'train_dataloader.sampler': dict(_delete_=True, type='DefaultSampler'),
        'train_dataloader.batch_size': 3,
    },
}


@pytest.mark.parametrize('name', FITTING)
def test_config_that_fits_is_accepted(base, name):
    check(base, FITTING[name])


MISTAKES = {
    'ordinary data set': (
        {**CACHE, 'train_dataloader.dataset': dict(_delete_=True, type='CustomDataset', data_prefix='x')},
        "model.teacher.cache='data/x' needs the images that the teacher saw, but train_dataloader.dataset is "
        "'CustomDataset'. Use dict(type='RepeatableViews', cache='data/x', ...), as the config that tools/cache_teacher.py "
        'has written',
    ),
    'cache of the data set alone': (
        {'train_dataloader.dataset.cache': 'data/x'},
        "model.teacher.cache=None and train_dataloader.dataset.cache='data/x' must be equal",
    ),
    'another cache': (
        {**CACHE, 'train_dataloader.dataset.cache': 'data/y'},
        "model.teacher.cache='data/x' and train_dataloader.dataset.cache='data/y' must be equal",
    ),
    'sampler': (
        {'train_dataloader.sampler': dict(_delete_=True, type='DefaultSampler', shuffle=True)},
        "needs train_dataloader.sampler=dict(type='ViewSampler') and no batch_sampler",
    ),
    'batch sampler': (
        {'train_dataloader.batch_sampler': dict(type='BatchSampler', batch_size=4, drop_last=False)},
        "needs train_dataloader.sampler=dict(type='ViewSampler') and no batch_sampler",
    ),
    'images that change while training': (
        {'custom_hooks': [dict(type='SwitchRecipeHook', schedule=[dict(action_epoch=2, batch_augments=None)])]},
        'SwitchRecipeHook changes batch_augments while training, but the views of train_dataloader.dataset are the same',
    ),
    'pictures of the teacher': (
        {**CACHE, 'custom_hooks': [dict(type='SuperpixelVisualizationHook')]},
        "SuperpixelVisualizationHook draws the superpixels of the teacher, which model.teacher.cache='data/x' does not",
    ),
    'odd batch': (
        {'train_dataloader.batch_size': 3},
        'train_dataloader.batch_size=3 must be even, because train_dataloader.dataset.augments mixes',
    ),
    'augmentation of batches': (
        {'model.student.model.train_cfg': dict(augments=dict(type='CutMix', alpha=1.0))},
        'model.student.model.train_cfg.augments draws other mates than the views',
    ),
    'augmentation in the preprocessor': (
        {'model.data_preprocessor.batch_augments': AUGMENTS},
        'model.data_preprocessor.batch_augments draws other mates than the views',
    ),
    'preprocessor': (
        {'model.data_preprocessor.type': 'ClsDataPreprocessor'},
        "model.data_preprocessor=dict(type='ViewPreprocessor', ...) is needed",
    ),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_part_that_does_not_fit_is_reported_by_its_key(base, name):
    options, message = MISTAKES[name]
    with pytest.raises(ConfigError, match=re.escape(message)):
        check(base, options)
