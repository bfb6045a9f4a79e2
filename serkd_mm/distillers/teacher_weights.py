"""Weights of teachers and students: downloaded once per machine, read without running code, and matched key by key."""

import os
import zlib
from collections.abc import Callable, Mapping
from threading import Event, Thread

import torch
from mmengine.dist import all_gather_object
from torch import nn

from ..config_errors import ConfigError, first_lines, first_names
from ..errors import raise_on_all_ranks
from ..fileio.downloads import DownloadError
from ..fileio.safe_loading import CheckpointError, read_checkpoint
from ..model_sources import HubFile, WeightsFile
from .weight_checks import check_weights, read_state_dict

# Ranks that wait for a download meet this often: far more often than any process group times out.
_MEETING_SECONDS = 2.0

File = WeightsFile | HubFile
Convert = Callable[[dict[str, torch.Tensor], nn.Module, str], dict[str, torch.Tensor]]


def fetch_on_all_ranks(file: File, key: str) -> str | None:
    """Make the weights readable on every machine; to be called on every rank. One rank of each machine downloads.

    Args:
        file: The checkpoint.
        key: Config key of the checkpoint, for messages.

    Returns:
        Why a rank cannot read the weights, the same on all ranks, so none waits for another. None if all can.
    """
    problem = next((problem for problem in _outcomes_on_all_ranks(file) if problem), None)
    return problem and f'{key}={file.shown!r} could not be fetched: {problem}'


def load_on_all_ranks(model: nn.Module, file: File, key: str, convert: Convert | None = None) -> None:
    """Load a fetched checkpoint on every rank; to be called on every rank.

    Args:
        model: The model to load into.
        file: The checkpoint, in mmengine's format (``state_dict`` inside) or a plain state dict.
        key: Config key of the checkpoint, for messages.
        convert: Turns the weights of the file, the model and the start of error messages into weights in the names of the
            model, see :meth:`ModelSource.convert`. Default: None, they have its names.

    Raises:
        ConfigError: On one rank the file cannot be read safely, does not match the model, or holds values that no trained
            model has; or two machines have different files. It is raised on all ranks.
    """
    with raise_on_all_ranks():
        checksum = _load(model, file, key, convert)
    if len(set(all_gather_object(checksum))) > 1:
        raise ConfigError(f'{key}={file.shown!r}: the machines have different files of this name; copy one to all of them')


def _outcomes_on_all_ranks(file: File) -> list[str | None]:
    """Fetch, and return the error message of each rank. Meanwhile the ranks meet, so that no collective times out."""
    stop, outcome = Event(), []
    thread = Thread(target=lambda: outcome.append(_fetch(file, stop)), daemon=True)
    thread.start()
    try:
        while True:
            thread.join(_MEETING_SECONDS)
            outcomes = all_gather_object(tuple(outcome))
            if all(outcomes):
                return [problem for (problem,) in outcomes]
    finally:
        stop.set()


def _fetch(file: File, stop: Event) -> str | None:
    """Fetch the weights of a URL on the first rank of a machine; return the error message, None without an error."""
    try:
        if not file.is_url or int(os.environ.get('LOCAL_RANK', '0')) == 0:
            file.fetch(stop)
    except (DownloadError, CheckpointError) as error:
        return str(error)
    except Exception as error:  # Any: an exception that is not returned would leave the other ranks waiting.
        return f'{type(error).__name__}: {error}'
    return None


def _load(model: nn.Module, file: File, key: str, convert: Convert | None) -> int:
    """Load a checkpoint, which must hold every weight of the model and nothing else; return a checksum of the file's."""
    where = f'{key}={file.shown!r}'
    try:
        content = read_checkpoint(file.path, f'{where} (in {file.path})' if file.is_url else where)
    except CheckpointError as error:
        advice = f'. Delete {file.path} to download it again' if file.is_url else ''
        raise ConfigError(f'{error}{advice}') from error
    state_dict = content = read_state_dict(content, where)
    if convert is not None:
        state_dict = convert(content, model, where)
    check_weights(state_dict, model, where)
    try:
        missing, unexpected = model.load_state_dict(state_dict, strict=False)
    except RuntimeError as error:
        raise ConfigError(f'{where} is of another architecture: {first_lines(error)}. {_advice(key)}') from error
    missing = [name for name in missing if not name.endswith('num_batches_tracked')]
    if missing or unexpected:
        raise ConfigError(
            f'{where} does not match the model. {_listed("Missing", missing)} {_listed("Unexpected", unexpected)} '
            f'{_advice(key)}'
        )
    # Not of the model: a student may keep a head of its own, which differs between ranks until DDP has sent it.
    return _checksum(content)


def _checksum(state_dict: Mapping[str, torch.Tensor]) -> int:
    """A checksum of all values, the same on any machine."""
    checksum = 0
    for _, value in sorted(state_dict.items()):
        checksum = zlib.crc32(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy(), checksum)
    return checksum


def _advice(key: str) -> str:
    return f'Is {key.removesuffix(".checkpoint")}.model the config that these weights were trained with?'


def _listed(title: str, names: list[str]) -> str:
    """The first few of many names, for a message."""
    if not names:
        return ''
    return f'{title} ({len(names)}): {first_names(names)}.'
