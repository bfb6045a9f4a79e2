"""Weights of the teacher: fetched once per machine, read without running code, and matched key by key."""

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..safe_loading import allow_mmengine_checkpoints
from .config_errors import ConfigError

# What some checkpoints hold beside the weights of the model.
_NOT_WEIGHTS = ('data_preprocessor.', 'distill.')


def fetch_weights(checkpoint: str) -> str | None:
    """Make the weights readable on this machine; to be called on every rank, as one of each machine downloads.

    Args:
        checkpoint: A path or a URL.

    Returns:
        What went wrong, None if nothing did: errors of one rank are to be raised on all of them.
    """
    try:
        if '://' in checkpoint and int(os.environ.get('LOCAL_RANK', '0')) == 0:
            _download(checkpoint)
        elif '://' not in checkpoint and not Path(checkpoint).is_file():
            return 'there is no such file'
    except (OSError, RuntimeError) as error:
        return f'{type(error).__name__}: {error}'
    return None


def is_at_hand(checkpoint: str) -> bool:
    """Whether the weights of a path or URL lie on this machine."""
    return _local(checkpoint).is_file()


def load_weights(model: nn.Module, checkpoint: str, key: str) -> None:
    """Load a fetched checkpoint into a model whose every weight it must hold, and nothing else.

    Args:
        model: The model to fill.
        checkpoint: A path or a fetched URL, in mmengine's format (``state_dict`` inside) or a plain state dict.
        key: Config key of ``checkpoint``, for messages.

    Raises:
        ConfigError: The file can not be read safely, or its keys or shapes are not the model's.
    """
    where = f'{key}={checkpoint!r}'
    state_dict = _state_dict(read_checkpoint(_local(checkpoint), where), where)
    try:
        missing, unexpected = model.load_state_dict(state_dict, strict=False)
    except RuntimeError as error:
        raise ConfigError(f'{where} is of another architecture: {error}') from error
    missing = [name for name in missing if not name.endswith('num_batches_tracked')]
    if missing or unexpected:
        raise ConfigError(
            f'{where} does not match the teacher. {_listed("Missing", missing)} {_listed("Unexpected", unexpected)}'
        )


def read_checkpoint(path: str | Path, where: str) -> Any:
    """Read a file of torch without running code.

    Args:
        path: The file.
        where: How messages call it: the config key and the path.

    Raises:
        ConfigError: The file is not there, is damaged, or holds more than tensors and plain values.
    """
    allow_mmengine_checkpoints()  # Again: the forks of mmengine take their list back, and ours with it, after each load.
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        if not _begins_as_a_checkpoint(path):
            raise ConfigError(
                f'{where} can not be read; is it complete? It does not begin as a file of torch does'
            ) from error
        raise ConfigError(
            f'{where} holds more than weights, and is not read because it could run code. If you trust its origin, strip '
            f"it to its state_dict first (mmpretrain's tools/model_converters/publish_model.py does). {error}"
        ) from error
    except FileNotFoundError as error:
        raise ConfigError(f'{where}: there is no such file') from error
    except (OSError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise ConfigError(f'{where} can not be read; is it complete? {type(error).__name__}: {error}') from error


def _begins_as_a_checkpoint(path: str | Path) -> bool:
    """Whether a file is an archive or a pickle, the two formats of torch."""
    with Path(path).open('rb') as file:
        begins_as_pickle = file.read(1) == pickle.PROTO
        return begins_as_pickle or zipfile.is_zipfile(file)


def _download(url: str) -> None:
    target = _local(url)
    if not is_at_hand(url):
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(target), progress=os.isatty(2))


def _local(checkpoint: str) -> Path:
    """Where the weights lie on this machine: for a URL, where ``torch.hub`` and mmengine keep theirs."""
    if '://' not in checkpoint:
        return Path(checkpoint)
    return Path(torch.hub.get_dir()) / 'checkpoints' / checkpoint.rsplit('/', 1)[1]


def _state_dict(checkpoint: Any, where: str) -> dict[str, torch.Tensor]:
    """The weights inside a checkpoint, named as the plain model names them."""
    for name in ('state_dict', 'model'):
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(name), Mapping):
            checkpoint = checkpoint[name]
            break
    if not isinstance(checkpoint, Mapping) or not all(isinstance(value, torch.Tensor) for value in checkpoint.values()):
        raise ConfigError(f'{where} holds no state_dict')
    names = ((name.removeprefix('module.'), value) for name, value in checkpoint.items())
    return {name: value for name, value in names if not name.startswith(_NOT_WEIGHTS)}


def _listed(title: str, names: list[str]) -> str:
    """A few of many names, for a message."""
    if not names:
        return ''
    return f'{title} ({len(names)}): {", ".join(names[:8])}{", ..." if len(names) > 8 else ""}.'
