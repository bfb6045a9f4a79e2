"""Data preprocessors of models: what their configs must hold."""

from collections.abc import Mapping
from math import isfinite
from numbers import Real
from typing import Any

from ..config_errors import ConfigError


def check_preprocessor(config: Any, key: str) -> None:
    """Check the numbers of a data preprocessor's config, which would otherwise fail or be infinite at the first images.

    Args:
        config: The config; only a dict is checked.
        key: Its key, for messages.

    Raises:
        ConfigError: ``mean`` or ``std`` is not one or three numbers, a deviation is not positive, or ``num_classes`` is not
            a positive integer.
    """
    if not isinstance(config, Mapping):
        return
    for name in ('mean', 'std'):
        values = config.get(name)
        if values is None:
            continue
        numbers = isinstance(values, (list, tuple)) and all(
            isinstance(value, Real) and not isinstance(value, bool) and isfinite(value) for value in values
        )
        if not numbers or len(values) not in (1, 3):
            raise ConfigError(f'{key}.{name} must be a list of one number for each channel, 1 or 3, but is {values!r}')
        if name == 'std' and min(values) <= 0:
            raise ConfigError(f'{key}.std must be positive, because images are divided by it, but is {values!r}')
    if (config.get('mean') is None) != (config.get('std') is None):
        raise ConfigError(f'{key} has one of mean and std; set both or neither')
    num_classes = config.get('num_classes')
    if num_classes is not None and (not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 1):
        raise ConfigError(f'{key}.num_classes must be a positive integer, but is {num_classes!r}')
