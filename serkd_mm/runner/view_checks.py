"""The parts of a config that must fit together for repeatable views, and so for a teacher's outputs that are stored."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from ..config_errors import ConfigError
from ..config_files import type_name

_AS_WRITTEN = 'as the config that tools/cache_teacher.py has written'


def check_views(config: Config) -> None:
    """Check data set, sampler, batch size, preprocessor and hooks of a training from ``RepeatableViews`` or a teacher cache.

    Raises:
        ConfigError: One does not fit; the message says what to use.
    """
    cache = _find(config, 'model.teacher.cache')
    dataset = _find(config, 'train_dataloader.dataset') or {}
    repeatable = type_name(dataset) == 'RepeatableViews'
    if not cache and not repeatable:
        return
    if not repeatable:
        raise ConfigError(
            f'model.teacher.cache={str(cache)!r} needs the images that the teacher saw, but train_dataloader.dataset is '
            f"{type_name(dataset)!r}. Use dict(type='RepeatableViews', cache={str(cache)!r}, ...), {_AS_WRITTEN}"
        )
    if (cache or None) != (dataset.get('cache') or None):
        raise ConfigError(
            f'model.teacher.cache={cache!r} and train_dataloader.dataset.cache={dataset.get("cache")!r} must be equal, '
            f'{_AS_WRITTEN}'
        )
    _check_loader(config.train_dataloader)
    _check_student(config)
    for hook in config.get('custom_hooks') or ():
        _check_hook(hook, cache)


def _check_loader(loader: Mapping) -> None:
    if type_name(loader.get('sampler') or {}) != 'ViewSampler' or loader.get('batch_sampler') is not None:
        raise ConfigError(
            "train_dataloader.dataset=dict(type='RepeatableViews') needs train_dataloader.sampler=dict(type='ViewSampler') "
            f'and no batch_sampler, {_AS_WRITTEN}'
        )
    batch_size = loader.get('batch_size')
    if loader.dataset.get('augments') and isinstance(batch_size, int) and batch_size % 2:
        raise ConfigError(
            f'train_dataloader.batch_size={batch_size} must be even, because train_dataloader.dataset.augments mixes the '
            'images of a batch in pairs'
        )


def _check_student(config: Config) -> None:
    """Check the preprocessor, and that the student has no augmentation of batches of its own."""
    for key, augments in _batch_augments(config):
        if augments:
            raise ConfigError(
                f'{key} draws other mates than the views of train_dataloader.dataset. Set it to None, and mix with '
                f"train_dataloader.dataset=dict(type='RepeatableViews', augments=...), {_AS_WRITTEN}"
            )
    found = dict(_preprocessors(config))
    key = next(iter(found), 'data_preprocessor')
    if type_name(found.get(key) or {}) != 'ViewPreprocessor':
        raise ConfigError(
            f"{key}=dict(type='ViewPreprocessor', ...) is needed by train_dataloader.dataset=dict(type='RepeatableViews'), "
            f'{_AS_WRITTEN}'
        )


def _check_hook(hook: Mapping, cache: str | None) -> None:
    """Check that a hook neither changes the images while training, nor needs a teacher that is not built."""
    kind = type_name(hook)
    changed = [
        name for recipe in hook.get('schedule') or () for name in ('train_pipeline', 'batch_augments') if name in recipe
    ]
    if kind == 'SwitchRecipeHook' and changed:
        raise ConfigError(
            f'custom_hooks: SwitchRecipeHook changes {changed[0]} while training, but the views of train_dataloader.dataset '
            f'are the same in all epochs. Remove {changed[0]} from its schedule'
        )
    if kind == 'SuperpixelVisualizationHook' and cache:
        raise ConfigError(
            f'custom_hooks: SuperpixelVisualizationHook draws the superpixels of the teacher, which model.teacher.cache='
            f'{cache!r} does not build. Remove the hook; tools/visualization/vis_superpixels.py draws them from checkpoints'
        )


def _preprocessors(config: Config) -> Iterator[tuple[str, Any]]:
    """Yield the preprocessors that a model is built with, the one that is used first."""
    for path in ('model.student.model.data_preprocessor', 'model.data_preprocessor', 'data_preprocessor'):
        found = _find(config, path)
        if found is not None:
            yield path, found


def _batch_augments(config: Config) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of a batch augmentation."""
    for path in ('model.student.model.train_cfg', 'model.train_cfg'):
        yield f'{path}.augments', _find(config, f'{path}.augments')
    for path, preprocessor in _preprocessors(config):
        yield f'{path}.batch_augments', _find(preprocessor, 'batch_augments')


def _find(config: Any, path: str) -> Any:
    for name in path.split('.'):
        config = config.get(name) if isinstance(config, (Config, Mapping)) else None
    return config
