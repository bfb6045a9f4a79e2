"""Which source a setting ``model`` names."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import mmpretrain
from mmengine.config import Config, ConfigDict
from mmpretrain.apis import ModelHub, list_models

from ..config_errors import ConfigError, check_file, suggest
from .hugging_face_source import HUGGING_FACE_TYPES, HuggingFaceSource
from .model_source import ModelSource, evaluated_size
from .timm_source import TIMM_TYPES, TimmSource

_MMPRETRAIN_CONFIGS = Path(mmpretrain.__file__).parent / '.mim' / 'configs'


def find_model(model: Any, key: str) -> ModelSource:
    """Find a model by the setting ``model`` of a student or teacher.

    Args:
        model: A ``model`` dict, the path of a config file, ``'mmpretrain::<config>'``, a name of mmpretrain's zoo,
            ``'timm:<name>'`` or ``'timm:<name>.<tag>'``, or ``'hf:<name>'`` with the name of a repository of Hugging Face's
            hub or a local folder.
        key: Config key of ``model``, for messages.

    Raises:
        ConfigError: There is no such file or name, what the model needs is not installed, or ``model`` is neither a dict nor
            a string.
    """
    if isinstance(model, Mapping):
        return _of_dict(ConfigDict(deepcopy(dict(model))), key)
    if not isinstance(model, (str, Path)):
        raise ConfigError(
            f"{key} must be a dict, a config file or a name of mmpretrain's zoo, timm or Hugging Face, but is {model!r}"
        )
    name = str(model)
    if name.startswith('timm:'):
        return TimmSource.from_name(name.removeprefix('timm:'), key)
    if name.startswith('hf:'):
        return HuggingFaceSource.from_name(name.removeprefix('hf:'), key)
    return _of_file(name, key) if name.endswith('.py') else _of_zoo(name, key)


def _of_dict(config: ConfigDict, key: str) -> ModelSource:
    """The source of a model dict; those of timm and Hugging Face know more about the model than the dict has."""
    kind = getattr(config.get('type'), '__name__', config.get('type'))
    kind = kind.rpartition('.')[2] if isinstance(kind, str) else None  # A type may start with the scope 'mmpretrain.'.
    if kind in TIMM_TYPES:
        return TimmSource.from_config(config, key)
    if kind in HUGGING_FACE_TYPES:
        return HuggingFaceSource.from_config(config, key)
    return ModelSource(config)


def _of_file(name: str, key: str) -> ModelSource:
    """The source of a config file."""
    path = name.replace('mmpretrain::', f'{_MMPRETRAIN_CONFIGS}/')
    check_file(path, key)
    try:
        config = Config.fromfile(path)
    except Exception as error:  # A config file is code: it may raise anything.
        raise ConfigError(f'{key}={path!r} could not be read: {error}') from error
    source = _of_dict(config.model, key)
    return replace(
        source,
        data_preprocessor=config.get('data_preprocessor') or source.data_preprocessor,
        image_size=evaluated_size(config) or source.image_size,
        shown=repr(name),
    )


def _of_zoo(name: str, key: str) -> ModelSource:
    """The source of a name of mmpretrain's zoo."""
    zoo = list_models()
    if name not in zoo:
        raise ConfigError(
            f'{key}={name!r} is not in the model zoo. {suggest(name, zoo)} Models of timm and Hugging Face are named '
            "'timm:NAME' and 'hf:NAME'"
        )
    metainfo = ModelHub.get(name)
    config = deepcopy(metainfo.config)  # A copy: the zoo caches its config.
    preprocessor = config.get('data_preprocessor')
    return ModelSource(config.model, preprocessor, metainfo.weights, evaluated_size(config), repr(name))
