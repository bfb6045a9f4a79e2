"""Models of mmpretrain by dict, by config file or by zoo name."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmpretrain
from mmengine.config import Config, ConfigDict
from mmpretrain.apis import ModelHub, list_models
from mmpretrain.models import BaseClassifier

from .config_errors import ConfigError, build_module, suggest

_MMPRETRAIN_CONFIGS = Path(mmpretrain.__file__).parent / '.mim' / 'configs'


@dataclass(frozen=True)
class ModelSource:
    """A model to build: its config, and where the zoo keeps its weights.

    Attributes:
        config: The ``model`` dict.
        weights: URL of the zoo's weights; None where the model is not from the zoo or the zoo has none.
    """

    config: ConfigDict
    weights: str | None = None

    def build(self, key: str) -> BaseClassifier:
        """Build the model.

        Raises:
            ConfigError: The config does not make a classifier of mmpretrain.
        """
        return build_module(self.config, BaseClassifier, key)


def find_model(model: Any, key: str) -> ModelSource:
    """Find a model by what a config says of it.

    Args:
        model: A ``model`` dict, the path of a config file, ``'mmpretrain::<config>'``, or a name of mmpretrain's zoo. For
            the last three, the ``data_preprocessor`` beside the model comes along.
        key: Config key of ``model``, for messages.

    Raises:
        ConfigError: There is no such file or zoo name, or ``model`` is neither a dict nor a string.
    """
    if isinstance(model, Mapping):
        return ModelSource(ConfigDict(deepcopy(dict(model))))
    if not isinstance(model, (str, Path)):
        raise ConfigError(f'{key} must be a dict, a config file or a name of the model zoo, but is {model!r}')
    name = str(model)
    if name.endswith('.py'):
        path = name.replace('mmpretrain::', f'{_MMPRETRAIN_CONFIGS}/')
        check_file(path, key)
        return ModelSource(_model_of(_read(path, key)))
    zoo = list_models()
    if name not in zoo:
        raise ConfigError(f'{key}={name!r} is not in the model zoo. {suggest(name, zoo)}')
    metainfo = ModelHub.get(name)
    return ModelSource(_model_of(metainfo.config), metainfo.weights)


def check_file(path: str, key: str) -> None:
    """Refuse a path at which there is no file.

    Raises:
        ConfigError: There is no file; the message names those like it in its folder.
    """
    if not Path(path).is_file():
        raise ConfigError(f'{key}={path!r}: there is no such file. {_suggest_file(path)}')


def replace_types(config: Any, replacements: Mapping[str, str]) -> None:
    """Replace registry names wherever they are a ``type`` in a nested config, in place."""
    if isinstance(config, Mapping):
        if isinstance(config.get('type'), str) and config['type'] in replacements:
            config['type'] = replacements[config['type']]
        for value in config.values():
            replace_types(value, replacements)
    elif isinstance(config, (list, tuple)):
        for value in config:
            replace_types(value, replacements)


def _read(path: str, key: str) -> Config:
    try:
        return Config.fromfile(path)
    except Exception as error:  # A config file is code: anything may come out of it.
        raise ConfigError(f'{key}={path!r} could not be read: {error}') from error


def _model_of(config: Config) -> ConfigDict:
    """The model of a whole config, with the data preprocessor that stands beside it."""
    model = deepcopy(config.model)
    if config.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', deepcopy(config.data_preprocessor))
    return model


def _suggest_file(path: str) -> str:
    folder = Path(path).parent
    return suggest(path, map(str, folder.iterdir())) if folder.is_dir() else f'There is no folder {str(folder)!r} either.'
