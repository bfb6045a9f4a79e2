"""Trainings of the small pair on repeatable views, and without labels."""

import copy
from pathlib import Path

from builders import NUM_CLASSES, training_config
from mmengine.config import Config

TIMM_STUDENT = dict(
    type='TimmClassifier',
    model_name='vit_tiny_patch16_224',
    img_size=32,
    patch_size=8,
    depth=2,
    num_classes=NUM_CLASSES,
)

EVALUATION = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=32), dict(type='PackInputs')]


def use_repeatable_views(config: Config, **settings) -> Config:
    """Make a training config read repeatable views of its data, in place.

    Args:
        config: The config.
        settings: Settings of ``RepeatableViews``, such as ``num_views``, ``augments`` and ``cache``.
    """
    loader = config.train_dataloader
    loader.dataset = dict(type='RepeatableViews', dataset=loader.dataset, **settings)
    loader.sampler = dict(type='ViewSampler')
    for preprocessor in (config.data_preprocessor, config.model.get('data_preprocessor')):
        if preprocessor is not None:
            preprocessor.update(type='ViewPreprocessor', to_onehot=bool(settings.get('augments')))
    config.model.student.model.pop('train_cfg', None)
    return config


def unlabeled_config(root: Path, work_dir: Path, **changes) -> Config:
    """Return the config of a training without labels on the images in ``root``; the validation images have labels.

    The student is a small model of timm. Of 2 epochs, each has 3 iterations.
    """
    settings = {
        'model.losses.loss_cls': None,
        'model.losses.loss_kd': None,
    }
    config = training_config(root, work_dir, **settings, **changes)
    student = dict(**TIMM_STUDENT, train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8)]))
    config.model.student = dict(model=student, taps=None)
    loader = config.val_dataloader  # All three share one dataset here.
    config.train_dataloader = {**loader, 'dataset': {**loader.dataset, 'with_label': False}}
    for name in ('val_dataloader', 'test_dataloader'):
        config[name] = {**loader, 'dataset': {**loader.dataset, 'pipeline': copy.deepcopy(EVALUATION)}}
    config.val_evaluator = [dict(type='DistillationLosses'), dict(type='KNNAccuracy', k=3)]
    config.test_evaluator = dict(type='KNNAccuracy', k=3)
    return config
