"""Optional packages: imported when a model of theirs is named, and not before."""

import importlib
from types import ModuleType

from ..config_errors import ConfigError

_EXTRAS = {'timm': 'timm', 'safetensors': 'timm', 'transformers': 'hf', 'huggingface_hub': 'hf'}


def import_optional(package: str, key: str) -> ModuleType:
    """Import a package that only some models need.

    Args:
        package: Its name, or that of a module in it.
        key: Config key of the model, for messages.

    Raises:
        ConfigError: It is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        package = package.partition('.')[0]
        raise ConfigError(
            f'{key} needs {package}, which could not be imported ({error}). Install it: '
            f'pip install "serkd-mm[{_EXTRAS[package]}]"'
        ) from error
