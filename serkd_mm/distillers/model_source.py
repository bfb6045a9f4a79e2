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
        data_preprocessor: What stands beside the model in its config file; None where it is not from one.
        weights: URL of the zoo's weights; None where the model is not from the zoo or the zoo has none.
    """

    config: ConfigDict
    data_preprocessor: ConfigDict | None = None
    weights: str | None = None

    def build(self, key: str, data_preprocessor: Mapping | None = None) -> BaseClassifier:
        """Build the model.

        Args:
            key: Config key of the model, for messages.
            data_preprocessor: Goes before the one that stands beside the model, and after the one inside it.

        Raises:
            ConfigError: The config does not make a classifier of mmpretrain.
        """
        config = deepcopy(self.config)
        beside = self.data_preprocessor if data_preprocessor is None else data_preprocessor
        if beside is not None:
            config.setdefault('data_preprocessor', deepcopy(beside))
        return build_module(config, BaseClassifier, key)

    @property
    def normalises(self) -> bool:
        """Whether the config says what is done to the model's input."""
        return self.data_preprocessor is not None or self.config.get('data_preprocessor') is not None


def find_model(model: Any, key: str) -> ModelSource:
    """Find a model by what a config says of it.

    Args:
        model: A ``model`` dict, the path of a config file, ``'mmpretrain::<config>'``, or a name of mmpretrain's zoo.
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
        config = _read(path, key)
        return ModelSource(config.model, config.get('data_preprocessor'))
    zoo = list_models()
    if name not in zoo:
        raise ConfigError(f'{key}={name!r} is not in the model zoo. {suggest(name, zoo)}')
    metainfo = ModelHub.get(name)
    config = deepcopy(metainfo.config)  # The zoo keeps its own.
    return ModelSource(config.model, config.get('data_preprocessor'), metainfo.weights)


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
        name = getattr(config.get('type'), '__name__', config.get('type'))  # A name, or in newer configs the class.
        name = str(name).rpartition('.')[2]  # Without its scope.
        if name in replacements:
            config['type'] = replacements[name]
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


def _suggest_file(path: str) -> str:
    folder = Path(path).parent
    return suggest(path, map(str, folder.iterdir())) if folder.is_dir() else f'There is no folder {str(folder)!r} either.'
