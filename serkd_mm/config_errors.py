"""Errors in a config, reported by the key that is wrong and the names that would be valid."""

import difflib
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmpretrain.registry import MODELS
from torch import nn

from .errors import UserError


class ConfigError(UserError, ValueError):
    """An error in the ``model`` part of a config; the message starts with the config key."""


@contextmanager
def prefix_errors(key: str) -> Iterator[None]:
    """Turn a ``ValueError`` of a component into a :class:`ConfigError` whose message starts with a config key."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f'{key}: {error}') from error


def suggest(name: str, valid: Iterable[str]) -> str:
    """Return ``Did you mean ...?`` with the nearest valid names, or all valid names if none is near."""
    valid = sorted(set(map(str, valid)))
    near = difflib.get_close_matches(str(name), valid, n=3, cutoff=0.5)
    if near:
        return f'Did you mean {" or ".join(map(repr, near))}?'
    return f'Valid: {", ".join(map(repr, valid[:20]))}.' if valid else 'There is none.'


def first_names(names: Iterable[str]) -> str:
    """Return the first few of many names, for a message."""
    names = list(names)
    return f'{", ".join(names[:8])}{", ..." if len(names) > 8 else ""}'


def first_lines(error: Exception, width: int | None = None) -> str:
    """Return the first few lines of a message of torch after its title, as one.

    Args:
        error: The error.
        width: Number of characters that are kept of each line. Default: None, all.
    """
    lines = [line.strip().rstrip('.') for line in str(error).splitlines()]
    return '; '.join(line[:width] for line in lines[1:4] or lines) + ('; ...' if len(lines) > 4 else '')


def check_keys(config: Mapping, valid: Iterable[str], key: str) -> None:
    """Raise if a config has unknown keys.

    Raises:
        ConfigError: ``config`` is not a dict, or has a key that is not in ``valid``.
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f'{key} must be a dict, but is {config!r}')
    valid = list(valid)
    for name in config:
        if name not in valid:
            raise ConfigError(f'{key}.{name} is not a setting. {suggest(name, valid)}')


def check_file(path: str, key: str) -> None:
    """Check that a file exists.

    Raises:
        ConfigError: It does not; the message names similar files in its folder.
    """
    folder = Path(path).parent
    if not Path(path).is_file():
        hint = (
            suggest(path, map(str, folder.iterdir())) if folder.is_dir() else f'There is no folder {str(folder)!r} either.'
        )
        raise ConfigError(f'{key}={path!r}: there is no such file. {hint}')


def check_boolean(value: Any, key: str) -> bool:
    """Return a setting that must be True or False: a text such as ``'no'`` would count as True.

    Raises:
        ConfigError: It is neither.
    """
    if not isinstance(value, bool):
        raise ConfigError(f'{key} must be True or False, but is {value!r}')
    return value


def check_name(name: str, key: str) -> None:
    """Raise if a name of a tap, view or loss cannot name a module, and so the entries of a state dict.

    Raises:
        ConfigError: ``name`` is not an identifier, or is an attribute of every ``ModuleDict``.
    """
    if not isinstance(name, str) or not name.isidentifier() or hasattr(nn.ModuleDict(), name):
        raise ConfigError(
            f'{key}: entries of checkpoints would be named by {name!r}, which no torch module can have. Rename it'
        )


def without_none(config: Mapping | None, key: str) -> dict[str, Any]:
    """Return the named entries that are not None; a child config removes an entry by setting it to None."""
    if config is None:
        return {}
    if not isinstance(config, Mapping):
        raise ConfigError(f'{key} must be a dict of named entries, but is {config!r}')
    for name in config:
        check_name(name, key)
    return {name: value for name, value in config.items() if value is not None}


def build_module(config: Any, kind: type[nn.Module], key: str) -> nn.Module:
    """Build a module of mmpretrain's registry, and check that it is of the kind that ``key`` needs.

    Raises:
        ConfigError: ``config`` has no type, an unknown type, an unknown setting or a wrong value, or builds another kind.
    """
    names = [name for name, cls in MODELS.module_dict.items() if inspect.isclass(cls) and issubclass(cls, kind)]
    if not isinstance(config, Mapping):
        raise ConfigError(f"{key} must be a dict with a 'type', but is {config!r}. {suggest('', names)}")
    if 'type' not in config:
        raise ConfigError(
            f"{key} has no 'type', so it neither changes an entry of the base config nor adds one. {suggest('', names)}"
        )
    cls = MODELS.get(config['type']) if isinstance(config['type'], str) else config['type']
    if cls is None or not (inspect.isclass(cls) and issubclass(cls, kind)):
        # What users call a component of this kind: BaseMerger is a Merger.
        spoken = kind.__name__.removeprefix('Base')
        raise ConfigError(f'{key}.type={config["type"]!r} is not a {spoken}. {suggest(config["type"], names)}')
    _check_settings(config, cls, key)
    try:
        return MODELS.build(config)
    except Exception as error:  # Models raise many kinds of errors for a wrong value.
        if isinstance(error, ConfigError):
            raise
        raise _located(config, key, error) from error


def _located(config: Mapping, key: str, error: Exception) -> ConfigError:
    """The error of building a module, with the key of the innermost part that fails with it alone, and of its setting."""
    for name, part in config.items():
        if isinstance(part, Mapping) and isinstance(part.get('type'), str) and MODELS.get(part['type']) is not None:
            try:
                MODELS.build(deepcopy(part))
            except Exception as inner:
                # Not every dict with a type is a module: Linear is a schedule of a loss, and also torch's layer.
                if _message(inner) in str(error):
                    return _located(part, f'{key}.{name}', inner)
    cls = MODELS.get(config['type']) if isinstance(config['type'], str) else config['type']
    wrong = _of_wrong_type(config, cls)
    message = _message(error)
    if any(isinstance(part, Mapping) and re.match(rf'{name}\b', message) for name, part in config.items()):
        return ConfigError(f'{key}.{message}')
    settings = [f'.{name}={config[name]!r} must be {expected}' for name, expected in wrong.items() if name not in message]
    return ConfigError(f'{key}{settings[0] if settings else ""}: {message}')


def _message(error: Exception) -> str:
    """The message of an error, without the class that was built, which mmengine adds in front of it."""
    return re.sub(r'^"?class `\w+` in [\w/.]+: ', '', str(error))


def _of_wrong_type(config: Mapping, cls: type) -> dict[str, str]:
    """The settings whose values have not the type of their annotation or default, with the type that they need."""
    found = {}
    for owner in inspect.getmro(cls):
        for name, parameter in inspect.signature(owner.__init__).parameters.items():
            annotated = parameter.annotation is not parameter.empty
            expected, kinds = _KINDS.get(parameter.annotation if annotated else type(parameter.default), ('', object))
            value = config.get(name)
            is_bool = isinstance(value, bool) and kinds not in (bool, object)
            # A default is a weaker hint than an annotation: an integer stands for a pair, too.
            if value is not None and (is_bool or (not isinstance(value, kinds) and (annotated or isinstance(value, str)))):
                found.setdefault(name, expected)
    return found


_KINDS = {bool: ('True or False', bool), int: ('an integer', int), float: ('a number', (int, float))}


def _check_settings(config: Mapping, cls: type, key: str) -> None:
    """Raise for settings that the constructor does not take, unless it takes any."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        # mmengine adds `_scope_` to every dict of a base config that belongs to another package.
        check_keys(config, ['type', '_scope_', *(p.name for p in parameters if p.name != 'self')], key)
