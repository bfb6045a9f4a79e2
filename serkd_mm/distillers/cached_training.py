"""The config of a training that reads a teacher cache, made from the config of the same training with its teacher."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from ..config_errors import ConfigError
from ..config_files import type_name
from ..fileio.atomic_backend import write_atomically
from ..fileio.urls import conceal_teacher
from ..model_sources import ModelSource, find_model

_STUDENT = 'model.student.model'
_SAMPLERS = ('DefaultSampler', 'InfiniteSampler')


def cached_training_config(
    config: Config, name: str, folder: str, num_views: int, seed: int, teacher_taps: Mapping[str, str]
) -> Config:
    """Return the config of the same training from a cache; the given one stays as it is.

    With ``model.teacher.cache=None train_dataloader.dataset.cache=None`` the teacher runs instead, on the same views.

    Args:
        config: The config of a training with a :class:`RelationDistiller` and a teacher.
        name: Name of the config, for its work folder.
        folder: Folder of the cache.
        num_views: Number of augmented views of the data set.
        seed: Seed of the views.
        teacher_taps: Module path of each tap of the teacher that a loss reads.

    Raises:
        ConfigError: The training uses a sampler, a batch sampler or a preprocessor whose batches cannot be repeated, or a
            hook that moves a tap of the teacher.
    """
    config = deepcopy(config)
    loader = _check_loader(config)
    if any(type_name(hook) == 'TapCurriculumHook' for hook in config.get('custom_hooks') or ()):
        raise ConfigError(
            'custom_hooks: TapCurriculumHook moves a tap of the teacher while training, and a cache holds the outputs of '
            'one place. Train without a cache, or remove the hook'
        )
    augments = _take_student_augments(config)
    views = {'type': 'RepeatableViews', 'dataset': loader.dataset, 'num_views': num_views, 'seed': seed}
    loader.dataset = ConfigDict({**views, 'augments': augments, 'cache': folder})
    loader.sampler = ConfigDict({'shuffle': True, **loader.sampler, 'type': 'ViewSampler'})
    taps = {**(config.model.teacher.get('taps') or {}), **teacher_taps}
    config.model.teacher = ConfigDict({**config.model.teacher, 'taps': taps, 'cache': folder})
    config.work_dir = f'work_dirs/{name}_cached'
    conceal_teacher(config)
    return config


def write_config(config: Config, path: str | Path, comment: str) -> None:
    """Write a config to a file that inherits from no other one.

    Args:
        config: The config.
        path: The file.
        comment: What its first line says.

    Raises:
        WriteError: The file cannot be written.
    """
    write_atomically(config_text(config, comment).encode(), path, 'the same command then continues')


def config_text(config: Config, comment: str) -> str:
    """Return the text that :func:`write_config` writes."""
    return f'# {comment}\n{config.pretty_text}'


def check_loads_again(config: Config, path: str) -> None:
    """Check that :func:`write_config` writes a file that can be read: mmengine writes some values as no Python.

    Args:
        config: The config.
        path: The file that it was made from, for the message.

    Raises:
        ConfigError: A value of the config cannot be written.
    """
    try:
        # As mmengine reads it, but without a copy of the file.
        exec(Config(config.to_dict(), format_python_code=False).pretty_text, {})
    except Exception as error:
        line = (getattr(error, 'text', None) or '').strip()
        raise ConfigError(
            f'{path}: mmengine writes a value of this config in a way that it cannot read, and the training from the '
            f'cache is a written config. {type(error).__name__}: {error}{line and f": {line}"}'
        ) from error


def _check_loader(config: Config) -> ConfigDict:
    """Return ``train_dataloader`` if views can replace its data set."""
    loader = config.get('train_dataloader')
    if not isinstance(loader, Mapping) or not isinstance(loader.get('dataset'), Mapping):
        raise ConfigError('train_dataloader.dataset is missing: a cache is made of the images of a training')
    if type_name(loader.dataset) == 'RepeatableViews' or config.model.teacher.get('cache') is not None:
        raise ConfigError(
            'train_dataloader.dataset or model.teacher.cache reads a teacher cache already. Give the config that the cache '
            'was made from'
        )
    for setting in ('batch_sampler', 'num_batch_per_epoch'):
        if loader.get(setting) is not None:
            raise ConfigError(
                f'train_dataloader.{setting}={loader[setting]!r}: trainings from a cache draw their batches with '
                f'ViewSampler. Remove it with train_dataloader.{setting}=None'
            )
    sampler = loader.get('sampler')
    if not isinstance(sampler, Mapping) or type_name(sampler) not in _SAMPLERS:
        shown = type_name(sampler) if isinstance(sampler, Mapping) else repr(sampler)
        raise ConfigError(
            f'train_dataloader.sampler is {shown}: ViewSampler, which trains from a cache, replaces '
            f"{' or '.join(_SAMPLERS)} only. Set train_dataloader.sampler=dict(type='DefaultSampler', shuffle=True)"
        )
    return loader


def _take_student_augments(config: Config) -> dict[str, Any] | None:
    """Remove the batch augmentation from the student and let :class:`ViewPreprocessor` normalize; return its settings."""
    student = config.model.student
    source = find_model(student.get('model'), _STUDENT)
    owner, preprocessor = _find_preprocessor(config, source)
    kind = type_name(preprocessor) or 'ClsDataPreprocessor'
    if kind not in ('ClsDataPreprocessor', 'LabelFreePreprocessor'):
        raise ConfigError(
            f'data_preprocessor.type is {kind}: ViewPreprocessor, which a cache needs, replaces ClsDataPreprocessor only'
        )
    train_cfg = source.config.pop('train_cfg', None)
    augments = deepcopy(preprocessor.get('batch_augments', train_cfg)) or None
    if isinstance(student.model, Mapping) or train_cfg or 'data_preprocessor' in source.config:
        student.model = source.config  # Its zoo name or file has these inside.
    settings = {**preprocessor, 'type': 'ViewPreprocessor', **({'to_onehot': True} if augments else {})}
    settings.pop('batch_augments', None)
    (student.model if owner is source.config else owner)['data_preprocessor'] = ConfigDict(settings)
    return dict(augments) if augments else None


def _find_preprocessor(config: Config, source: ModelSource) -> tuple[Any, Mapping]:
    """The part of the config that the student's preprocessor belongs to, and its settings."""
    for owner in (source.config, config.model, config):
        if owner.get('data_preprocessor') is not None:
            return owner, owner['data_preprocessor']
    return config, source.data_preprocessor or {}
