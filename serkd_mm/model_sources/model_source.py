"""Models of mmpretrain given by a dict, a config file or a zoo name."""

import logging
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmpretrain
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmpretrain.apis import ModelHub, list_models
from mmpretrain.models import BaseClassifier

from ..config_errors import ConfigError, build_module, suggest
from .preprocessors import check_preprocessor

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


def drop_empty_pretrained(config: Any, key: str) -> None:
    """Remove each ``init_cfg`` of type 'Pretrained' without a checkpoint from a nested config, in place, and log it.

    Configs of the zoo for fine-tuning have these, as a place for a checkpoint. mmengine would try to load ``''``. Without
    it, the module is initialized as if the config had no ``init_cfg``.

    Args:
        config: A model config. Dicts, lists and tuples inside it are searched.
        key: Its config key, for messages.
    """
    if isinstance(config, Mapping):
        given = config.get('init_cfg')
        kept = [entry for entry in _as_list(given) if not _is_empty_pretrained(entry)]
        if len(kept) < len(_as_list(given)):
            print_log(
                f"{key}.init_cfg is of type 'Pretrained' and has no checkpoint: the module starts from random weights. Set "
                f'{key}.init_cfg.checkpoint to start from pretrained ones.',
                logger='current',
                level=logging.WARNING,
            )
            config.pop('init_cfg')
            if kept:
                config['init_cfg'] = kept
        for name, value in config.items():
            drop_empty_pretrained(value, f'{key}.{name}')
    elif isinstance(config, (list, tuple)):
        for index, value in enumerate(config):
            drop_empty_pretrained(value, f'{key}[{index}]')


def _as_list(init_cfg: Any) -> list:
    """The entries of an ``init_cfg``, which may be one dict or a list of them."""
    return list(init_cfg) if isinstance(init_cfg, (list, tuple)) else [init_cfg]


def _is_empty_pretrained(entry: Any) -> bool:
    """Whether an entry of an ``init_cfg`` loads a checkpoint that is empty."""
    if not isinstance(entry, Mapping) or entry.get('checkpoint', '') not in ('', None):
        return False
    return getattr(entry.get('type'), '__name__', entry.get('type')) in ('Pretrained', 'PretrainedInit')


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
