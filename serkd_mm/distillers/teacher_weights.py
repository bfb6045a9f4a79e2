"""Weights of the teacher: downloaded once per machine, read without running code, and matched key by key."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object
from torch import nn

from ..fileio.safe_loading import CheckpointError, read_checkpoint
from .config_errors import ConfigError

# Prefixes of entries in some checkpoints that are not weights of the model.
_NOT_WEIGHTS = ('data_preprocessor.', 'distill.')


def fetch_on_all_ranks(checkpoint: str, key: str, allow_missing: bool = False) -> bool:
    """Make the weights readable on every machine; to be called on every rank. One rank of each machine downloads.

    Args:
        checkpoint: A path or a URL.
        key: Config key of ``checkpoint``, for messages.
        allow_missing: Return False instead of raising. Default: False.

    Returns:
        Whether every rank can read the weights.

    Raises:
        ConfigError: One rank cannot; it is raised on all ranks, so none waits for another.
    """
    problems = [problem for problem in all_gather_object(_fetch(checkpoint)) if problem is not None]
    if problems and not allow_missing:
        raise ConfigError(f'{key}={checkpoint!r} could not be fetched: {problems[0]}')
    return not problems


def weights_are_local(checkpoint: str) -> bool:
    """Whether the weights of a path or URL are on this machine."""
    return _local_path(checkpoint).is_file()


def load_weights(model: nn.Module, checkpoint: str, key: str) -> None:
    """Load a fetched checkpoint, which must hold every weight of the model and nothing else.

    Args:
        model: The model to load into.
        checkpoint: A path or a fetched URL, in mmengine's format (``state_dict`` inside) or a plain state dict.
        key: Config key of ``checkpoint``, for messages.

    Raises:
        ConfigError: The file cannot be read safely, or its keys or shapes do not match the model.
    """
    where = f'{key}={checkpoint!r}'
    try:
        state_dict = _state_dict(read_checkpoint(_local_path(checkpoint), where), where)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    try:
        missing, unexpected = model.load_state_dict(state_dict, strict=False)
    except RuntimeError as error:
        raise ConfigError(f'{where} is of another architecture: {error}') from error
    missing = [name for name in missing if not name.endswith('num_batches_tracked')]
    if missing or unexpected:
        raise ConfigError(
            f'{where} does not match the teacher. {_listed("Missing", missing)} {_listed("Unexpected", unexpected)}'
        )


def _fetch(checkpoint: str) -> str | None:
    """Download the weights of a URL on the first rank of a machine; return the error message, None without an error."""
    path, is_url = _local_path(checkpoint), '://' in checkpoint
    try:
        if is_url and int(os.environ.get('LOCAL_RANK', '0')) == 0 and not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(checkpoint, str(path), progress=os.isatty(2))
        return None if is_url or path.is_file() else 'there is no such file'
    except (OSError, RuntimeError) as error:  # Returned, so that no rank waits for this one.
        return f'{type(error).__name__}: {error}'


def _local_path(checkpoint: str) -> Path:
    """Path of the weights on this machine: for a URL, where ``torch.hub`` and mmengine keep their downloads."""
    if '://' not in checkpoint:
        return Path(checkpoint)
    return Path(torch.hub.get_dir()) / 'checkpoints' / checkpoint.rsplit('/', 1)[1]


def _state_dict(checkpoint: Any, where: str) -> dict[str, torch.Tensor]:
    """The weights inside a checkpoint, named as in the plain model."""
    for name in ('state_dict', 'model'):
        if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(name), Mapping):
            checkpoint = checkpoint[name]
            break
    if not isinstance(checkpoint, Mapping) or not all(isinstance(value, torch.Tensor) for value in checkpoint.values()):
        raise ConfigError(f'{where} holds no state_dict')
    names = ((name.removeprefix('module.'), value) for name, value in checkpoint.items())
    return {name: value for name, value in names if not name.startswith(_NOT_WEIGHTS)}


def _listed(title: str, names: list[str]) -> str:
    """The first few of many names, for a message."""
    if not names:
        return ''
    return f'{title} ({len(names)}): {", ".join(names[:8])}{", ..." if len(names) > 8 else ""}.'
