"""Values in a config that a run cannot use, reported by their key before anything is built."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from mmengine.config import Config
from mmpretrain.registry import HOOKS

from ..config_errors import ConfigError
from ..hooks import LossScheduleHook
from ..losses.schedules import SCHEDULES

_COUNTS = {
    'train_cfg.max_epochs': 1,
    'train_cfg.max_iters': 1,
    'train_cfg.val_interval': 1,
    'optim_wrapper.accumulative_counts': 1,
    'default_hooks.logger.interval': 1,
    'randomness.seed': 0,
    'default_hooks.checkpoint.interval': -1,
    **{f'{split}_dataloader.batch_size': 1 for split in ('train', 'val', 'test')},
    **{f'{split}_dataloader.num_workers': 0 for split in ('train', 'val', 'test')},
}
_CLIP = 'optim_wrapper.clip_grad.max_norm'  # May be infinite, which logs the norm and clips nothing.
_NUMBERS = ('optim_wrapper.optimizer.lr', 'optim_wrapper.optimizer.weight_decay', _CLIP)


def check_values(config: Config) -> None:
    """Check the numbers of the schedule, the optimizer and the dataloaders.

    Raises:
        ConfigError: One is of another type, or too small.
    """
    for key, minimum in _COUNTS.items():
        value = _find(config, key)
        whole = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) and value == int(value)
        if value is not None and (not whole or value < minimum):
            raise ConfigError(f'{key} must be a whole number, {minimum} or more, but is {value!r}')
    for key in _NUMBERS:
        value = _find(config, key)
        number = isinstance(value, Real) and not isinstance(value, bool) and (math.isfinite(value) or key == _CLIP)
        if value is not None and not (number and value >= 0):
            raise ConfigError(f'{key} must be a finite number that is not negative, but is {value!r}')
    hooks = config.get('custom_hooks') or []
    if not isinstance(hooks, (list, tuple)) or not all(isinstance(hook, Mapping) for hook in hooks):
        raise ConfigError(f'custom_hooks must be a list of dicts with a type, but is {hooks!r}')
    _check_weight_decay(config)
    _check_schedules(config)


def _check_weight_decay(config: Config) -> None:
    """Report factors of a weight decay that is not set, which mmengine rejects without a key."""
    paramwise, decay = _find(config, 'optim_wrapper.paramwise_cfg'), _find(config, 'optim_wrapper.optimizer.weight_decay')
    if decay is None and 'decay_mult' in repr(paramwise):
        raise ConfigError(
            'optim_wrapper.paramwise_cfg multiplies the weight decay, but optim_wrapper.optimizer.weight_decay is not set. '
            'Set it, 0 for none'
        )


def _check_schedules(config: Config) -> None:
    """Report a setting of a loss that is a schedule, if no hook moves it."""
    losses = _find(config, 'model.losses') or {}
    scheduled = [
        f'model.losses.{name}.{setting}'
        for name, loss in losses.items()
        for setting, value in (loss.items() if isinstance(loss, Mapping) else ())
        if isinstance(value, Mapping) and value.get('type') in SCHEDULES
    ]
    hooks = [
        HOOKS.get(hook['type']) if isinstance(hook.get('type'), str) else hook.get('type')
        for hook in config.get('custom_hooks') or ()
    ]
    if scheduled and not any(isinstance(hook, type) and issubclass(hook, LossScheduleHook) for hook in hooks):
        raise ConfigError(
            f"{scheduled[0]} is a schedule, and nothing moves it: add dict(type='LossScheduleHook') to custom_hooks, as in "
            'configs/_base_/runtime.py'
        )


def _find(config: Config, path: str) -> Any:
    value: Any = config
    for name in path.split('.'):
        value = value.get(name) if isinstance(value, (Config, Mapping)) else None
    return value
