"""Files of a model of Hugging Face: in a local folder, or in a repository of the hub."""

import json
import re
from pathlib import Path
from typing import Any

from ..config_errors import ConfigError, suggest
from ..fileio.downloads import DownloadError
from .extras import import_optional
from .hub_file import HubFile
from .weights_file import WeightsFile

_REPOSITORY = re.compile(r'[\w.-]+(/[\w.-]+)?(@[\w.-]+)?')
_WEIGHTS = ('model.safetensors', 'pytorch_model.bin')


def find_file(name: str, filenames: tuple[str, ...]) -> HubFile | WeightsFile:
    """Return a file of a model, without reading it.

    Args:
        name: Name of a repository of the hub, or a folder.
        filenames: Names that the file may have, in order of preference.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return HubFile(name, filenames)
    found = next((filename for filename in filenames if (folder / filename).is_file()), filenames[0])
    return WeightsFile(str(folder / found))


def find_weights_file(name: str) -> HubFile | WeightsFile:
    """Return the file of a model's weights, without reading it."""
    return find_file(name, _WEIGHTS)


def read_config(name: str, num_labels: int | None = None, where: str | None = None) -> Any:
    """Read the ``config.json`` of a model.

    Args:
        name: Name of a repository of the hub, or a folder.
        num_labels: Number of classes of a class head. Default: None, as in the file.
        where: Start of the error messages. Default: None, which is ``name``.

    Returns:
        The config of transformers; that of the vision tower, if the model has one and no class head.

    Raises:
        ConfigError: transformers is not installed, the file is missing or cannot be fetched, or is of no vision model that
            transformers has.
    """
    where = where or repr(f'hf:{name}')
    transformers = import_optional('transformers', where)
    file = find_file(name, ('config.json',))
    _fetch(file, name, where)
    settings = {} if num_labels is None else {'num_labels': num_labels}
    try:
        config = transformers.AutoConfig.from_pretrained(file.path.parent, local_files_only=True, **settings)
    except Exception as error:  # transformers raises many kinds for a file that it cannot read.
        raise ConfigError(
            f'{where}: {file.path} is of no model that transformers can build: {_first_line(error)}'
        ) from error
    heads = transformers.AutoModelForImageClassification._model_mapping
    if num_labels is not None:
        if type(config) not in heads:
            raise ConfigError(f'{where}: transformers has no class head for models of type {config.model_type!r}')
        nets = heads[type(config)]
        config.architectures = [(nets[0] if isinstance(nets, (tuple, list)) else nets).__name__]
    if not any('ForImageClassification' in architecture for architecture in config.architectures or ()):
        config = getattr(config, 'vision_config', config)
    config.dtype = None  # Half-precision checkpoints are trained and converted in float32.
    return config


def read_image_processor(name: str, where: str) -> dict[str, Any]:
    """Read the ``preprocessor_config.json`` of a model.

    Args:
        name: Name of a repository of the hub, or a folder.
        where: Start of the error messages.

    Raises:
        ConfigError: The file is missing or cannot be fetched, or cannot be read.
    """
    file = find_file(name, ('preprocessor_config.json', 'processor_config.json'))
    _fetch(file, name, where)
    try:
        content = json.loads(file.path.read_text(encoding='utf-8'))
        return content.get('image_processor', content)
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f'{where}: {file.path} cannot be read: {error}') from error


def check_name(name: str, where: str) -> None:
    """Check that a name is a folder, or may be that of a repository of the hub.

    Raises:
        ConfigError: It is neither; the message names similar folders or repositories in the cache.
    """
    folder = Path(name).expanduser()
    if folder.is_dir() or _REPOSITORY.fullmatch(name):
        return
    parent = folder.parent
    hint = suggest(name, map(str, parent.iterdir())) if parent.is_dir() else f'There is no folder {str(parent)!r} either.'
    raise ConfigError(f'{where}: there is no such folder, and no repository of the hub can have this name. {hint}')


def _fetch(file: HubFile | WeightsFile, name: str, where: str) -> None:
    """Fetch a small file that is needed to build the model."""
    try:
        file.fetch()
    except DownloadError as error:
        advice = '; save the model with save_pretrained() there, and its image processor too' if not file.is_url else ''
        raise ConfigError(f'{where}: {file.shown}: {error}{advice}') from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split('\n')[0]
