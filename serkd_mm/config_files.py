"""Read config files and the settings of a command line; errors name the file or the setting."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

from .errors import UserError


class ConfigFileError(UserError, ValueError):
    """A config file, or a setting of the command line, cannot be read. The message names it."""


def read_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config file.

    Args:
        path: Path of the file.
        options: Settings of ``--cfg-options`` to merge into it. Default: None.

    Returns:
        The config.

    Raises:
        OSError: The file, or one that it inherits from, does not exist.
        ConfigFileError: It cannot be read as a config, has no place for an option, or belongs to a teacher cache that is not
            complete.
    """
    if not Path(path).is_file() and (Path(path).parent / 'manifest.json').is_file():
        raise ConfigFileError(
            f'{path}: there is no such file in this teacher cache. It is written when the cache is complete: run the '
            'tools/cache_teacher.py command again, it goes on where it was'
        )
    try:
        config = Config.fromfile(path)
    except (UserError, FileNotFoundError):
        raise
    except Exception as error:  # A config file is code: it may raise anything.
        raise ConfigFileError(f'{path} cannot be read as a config: {type(error).__name__}: {error}') from error
    merge_options(config, options)
    return config


def merge_options(config: Config, options: Mapping[str, Any] | None) -> None:
    """Merge the settings of ``--cfg-options`` into a config.

    Raises:
        ConfigFileError: The config has no place for one of them; the message has them all, and mmengine's own.
    """
    options = dict(options or {})
    try:
        config.merge_from_dict(options)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        shown = ' '.join(f'{key}={value}' for key, value in options.items())
        raise ConfigFileError(f'--cfg-options {shown}: the config has no place for this. {error}') from error


def type_name(part: Mapping[str, Any]) -> str | None:
    """Return the name of the type of a part of a config, without its scope.

    In configs of mmengine's newer style, which import what they name, the type is the class itself.
    """
    kind = part.get('type')
    return kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', None)


class OptionsAction(DictAction):
    """mmengine's action for ``--cfg-options``; an option without a value is reported, and a path keeps its spaces."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: list[str], option_string=None) -> None:
        """Parse ``KEY=VALUE`` pairs; end the process with the usage of the tool if one is not a pair."""
        for value in values:
            if '=' not in value:
                parser.error(f'{option_string}: {value!r} is not KEY=VALUE; there must be no space around the =')
        super().__call__(parser, namespace, values, option_string)

    @staticmethod
    def _parse_iterable(val: str) -> Any:
        """Parse a value; mmengine removes all spaces, also those of a single string, such as the path of a folder."""
        is_single = not set(val) & set(',()[]')
        return val.strip('\'"') if is_single and ' ' in val.strip() else DictAction._parse_iterable(val)
