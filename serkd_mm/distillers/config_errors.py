"""Mistakes in a config, told by the key they were made under and the names that would have been right."""

import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from mmpretrain.registry import MODELS
from torch import nn


class ConfigError(ValueError):
    """A mistake in the ``model`` part of a config; the message starts with the key it was made under."""


def suggest(name: str, valid: Iterable[str]) -> str:
    """`` Did you mean ...?`` with the nearest valid names, or all of them where none is near."""
    valid = sorted(set(valid))
    near = difflib.get_close_matches(str(name), valid, n=3, cutoff=0.5)
    if near:
        return f'Did you mean {" or ".join(map(repr, near))}?'
    return f'Valid: {", ".join(map(repr, valid[:20]))}.' if valid else 'There is none.'


def check_keys(config: Mapping, valid: Iterable[str], key: str) -> None:
    """Refuse a key that nothing reads, and what is no mapping at all.

    Raises:
        ConfigError: ``config`` is not a dict or has a key that is not in ``valid``.
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f'{key} must be a dict, but is {config!r}')
    valid = list(valid)
    for name in config:
        if name not in valid:
            raise ConfigError(f'{key}.{name} is not a setting. {suggest(name, valid)}')


def without_none(config: Mapping | None, key: str) -> dict[str, Any]:
    """The named entries that are not switched off: a child config removes one by setting it to None."""
    if config is None:
        return {}
    if not isinstance(config, Mapping):
        raise ConfigError(f'{key} must be a dict of named entries, but is {config!r}')
    return {name: value for name, value in config.items() if value is not None}


def build_module(config: Any, kind: type[nn.Module], key: str) -> nn.Module:
    """Build a module of mmpretrain's registry and check that it is of the kind that belongs under ``key``.

    Raises:
        ConfigError: ``config`` has no type, an unknown type, an unknown setting or a wrong value, or makes another kind.
    """
    names = [name for name, cls in MODELS.module_dict.items() if inspect.isclass(cls) and issubclass(cls, kind)]
    if not isinstance(config, Mapping):
        raise ConfigError(f"{key} must be a dict with a 'type', but is {config!r}. {suggest('', names)}")
    if 'type' not in config:
        raise ConfigError(
            f"{key} has no 'type', so it changes no entry of the base config and makes no new one. {suggest('', names)}"
        )
    cls = MODELS.get(config['type']) if isinstance(config['type'], str) else config['type']
    if cls is None or not (inspect.isclass(cls) and issubclass(cls, kind)):
        raise ConfigError(f'{key}.type={config["type"]!r} is no {_spoken(kind)}. {suggest(config["type"], names)}')
    _check_settings(config, cls, key)
    try:
        return MODELS.build(config)
    except (TypeError, ValueError, AssertionError, KeyError) as error:
        raise ConfigError(f'{key}: {error}') from error


def _check_settings(config: Mapping, cls: type, key: str) -> None:
    """Refuse settings that the class does not take, unless it takes any."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        # Where a base config is from another package, mmengine notes its scope in every dict.
        check_keys(config, ['type', '_scope_', *(p.name for p in parameters if p.name != 'self')], key)


def _spoken(kind: type) -> str:
    """What users call a component of this kind: ``BaseMerger`` is a merger."""
    return kind.__name__.removeprefix('Base')
