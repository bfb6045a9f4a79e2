"""Settings in a form that JSON can hold, to be stored and compared."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def canonical(value: Any) -> Any:
    """Return a setting as JSON reads it back.

    Tuples become lists, classes and functions their names. A type that is named with its package is named without it, as
    mmengine writes the classes of its newer style of configs to a file; the scopes that it adds to the settings of another
    package are left out.

    Args:
        value: A config, or a part of one.
    """
    if isinstance(value, Mapping):
        settings = {str(name): canonical(part) for name, part in value.items() if name != '_scope_'}
        if isinstance(settings.get('type'), str):
            settings['type'] = settings['type'].rpartition('.')[2]
        return settings
    if isinstance(value, (list, tuple)):
        return [canonical(part) for part in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return getattr(value, '__qualname__', None) or str(value)


def first_difference(stored: Any, present: Any, name: str) -> str | None:
    """Describe the first difference between two canonical settings; None if they are equal.

    Args:
        stored: The settings that were stored.
        present: The settings of this run.
        name: Name of the whole, the start of the description.

    Returns:
        Such as ``'train_pipeline[1].scale was 224 and is 192'``.
    """
    if stored == present:
        return None
    if isinstance(stored, Mapping) and isinstance(present, Mapping):
        for key in [*stored, *(key for key in present if key not in stored)]:
            if key not in stored or key not in present:
                was, now = (repr(side[key]) if key in side else 'not set' for side in (stored, present))
                return f'{name}.{key} was {was} and is {now}'
            found = first_difference(stored[key], present[key], f'{name}.{key}')
            if found:
                return found
    if isinstance(stored, list) and isinstance(present, list):
        for index, parts in enumerate(zip(stored, present)):  # noqa: B905 (a longer list is described below)
            found = first_difference(*parts, f'{name}[{index}]')
            if found:
                return found
        index = min(len(stored), len(present))
        was, now = (repr(side[index]) if index < len(side) else 'not there' for side in (stored, present))
        return f'{name}[{index}] was {was} and is {now}'
    return f'{name} was {stored!r} and is {present!r}'
