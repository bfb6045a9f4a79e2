"""Models of mmpretrain given by a dict, a config file or a zoo name."""

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
from .input_statistics import check_preprocessor

_MMPRETRAIN_CONFIGS = Path(mmpretrain.__file__).parent / '.mim' / 'configs'


@dataclass(frozen=True)
class ModelSource:
    """A model to build: its config, and the URL of its zoo weights.

    Attributes:
        config: The ``model`` dict.
        data_preprocessor: The preprocessor of its config file. Default: None, if there is no file.
        weights: URL of the zoo's weights. Default: None, if the model is not from the zoo or the zoo has none.
    """

    config: ConfigDict
    data_preprocessor: ConfigDict | None = None
    weights: str | None = None

    def build(self, key: str, data_preprocessor: Mapping | None = None) -> BaseClassifier:
        """Build the model.

        Args:
            key: Config key of the model, for messages.
            data_preprocessor: Used instead of the one in the model's config file, unless the model dict has one inside.
                Default: None.

        Raises:
            ConfigError: The config does not build a classifier of mmpretrain.
        """
        config = deepcopy(self.config)
        default = self.data_preprocessor if data_preprocessor is None else data_preprocessor
        if default is not None:
            config.setdefault('data_preprocessor', deepcopy(default))
        check_preprocessor(config.get('data_preprocessor'), f'{key}.data_preprocessor')
        return build_module(config, BaseClassifier, key)

    @property
    def has_preprocessor(self) -> bool:
        """Whether the config defines how the model's input is normalized."""
        return self.data_preprocessor is not None or self.config.get('data_preprocessor') is not None


def find_model(model: Any, key: str) -> ModelSource:
    """Find a model by the setting ``model`` of a student or teacher.

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
        try:
            config = Config.fromfile(path)
        except Exception as error:  # A config file is code: it may raise anything.
            raise ConfigError(f'{key}={path!r} could not be read: {error}') from error
        return ModelSource(config.model, config.get('data_preprocessor'))
    zoo = list_models()
    if name not in zoo:
        raise ConfigError(f'{key}={name!r} is not in the model zoo. {suggest(name, zoo)}')
    metainfo = ModelHub.get(name)
    config = deepcopy(metainfo.config)  # A copy: the zoo caches its config.
    return ModelSource(config.model, config.get('data_preprocessor'), metainfo.weights)


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
