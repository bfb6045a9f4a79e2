"""Load checkpoints without running code from them: ``torch.load(weights_only=True)``, or safetensors."""

import importlib
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.utils import digit_version

from ..errors import UserError

# What torch and zipfile raise for damaged files.
_DAMAGE = (
    OSError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
    zlib.error,
)


_INSTALL = 'pip install safetensors'
# The limit of the package itself.
_LARGEST_HEADER = 100_000_000


class CheckpointError(UserError, ValueError):
    """A checkpoint file is missing, is damaged, or cannot be loaded safely. The message names the file and the reason."""


def allow_mmengine_checkpoints() -> None:
    """Allow ``torch.load(weights_only=True)``, the default since torch 2.6, to read checkpoints of mmengine 0.10.

    These checkpoints store the logged history as ``HistoryBuffer`` objects that hold NumPy arrays. The few classes allowed
    here hold data and run no code; all others stay refused. Before torch 2.6 nothing changes: mmengine loads without
    ``weights_only`` there.
    """
    if digit_version(torch.__version__) < digit_version('2.6'):
        return
    multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray
    number_types = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)]
    array_types = [np.ndarray, np.dtype, multiarray._reconstruct, multiarray.scalar]
    lookup = (_statistics_method, 'builtins.getattr')  # Called where the pickle names ``getattr``.
    torch.serialization.add_safe_globals([HistoryBuffer, *array_types, *number_types, lookup])


def _statistics_method(owner: type, name: str) -> Callable:
    """Replace ``getattr`` in a pickled history: return a statistics method of ``HistoryBuffer``, and refuse the rest."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise ValueError(f'The checkpoint refers to the attribute {name!r} of {owner!r}')
    return getattr(HistoryBuffer, name)


def read_checkpoint(path: str | Path, where: str) -> Any:
    """Load a checkpoint onto the CPU without running code from it.

    Args:
        path: Path of a file in a format of ``torch.save``, or of safetensors; its name does not matter.
        where: Start of the error messages, such as the config key and the path.

    Returns:
        The content of the file: tensors and plain values.

    Raises:
        CheckpointError: The file is missing, is damaged, or holds more than tensors and plain values. Damage inside a
            tensor is found by the checksums of the zip archive; files of the older format, without ``zip``, and of
            safetensors have none.
    """
    if _is_safetensors(path):
        return _read_safetensors(path, where)
    allow_mmengine_checkpoints()  # Repeated: the forks of mmengine reset torch's list of safe classes after each load.
    try:
        _check_checksums(path, where)
        return torch.load(path, map_location='cpu', weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        if not _has_checkpoint_header(path):
            what = 'It is a web page' if _is_web_page(path) else 'It does not start like a checkpoint of torch'
            raise CheckpointError(f'{where} cannot be read; is it complete? {what}') from error
        raise CheckpointError(
            f'{where} holds more than weights, and is not read because it could run code. If you trust its source, reduce '
            f"it to its state_dict first (mmpretrain's tools/model_converters/publish_model.py does this). {error}"
        ) from error
    except FileNotFoundError as error:
        raise CheckpointError(f'{where}: there is no such file') from error
    except _DAMAGE as error:
        raise CheckpointError(f'{where} cannot be read; is it complete? {type(error).__name__}: {error}') from error


def _is_safetensors(path: str | Path) -> bool:
    """Whether a file starts like one of safetensors: with the length of a header in JSON."""
    path = Path(path)
    if not path.is_file():
        return False
    with path.open('rb') as file:
        start = file.read(9)
    # torch's formats start with 'PK' or with the opcode of a pickle, 0x80.
    return len(start) == 9 and start[8:] == b'{' and int.from_bytes(start[:8], 'little') <= _LARGEST_HEADER


def _read_safetensors(path: str | Path, where: str) -> dict[str, torch.Tensor]:
    """Load the tensors of a file of safetensors.

    Raises:
        CheckpointError: safetensors is not installed, or the file is damaged.
    """
    try:
        # Imported here, because the package is part of the extras 'timm' and 'hf'.
        load_file = importlib.import_module('safetensors.torch').load_file
    except ImportError as error:
        raise CheckpointError(f'{where} is a file of safetensors. Install the package that reads it: {_INSTALL}') from error
    try:
        return load_file(path)
    except Exception as error:  # The package's own class of errors, and those of torch.
        raise CheckpointError(f'{where} cannot be read; is it complete? {type(error).__name__}: {error}') from error


def _check_checksums(path: str | Path, where: str) -> None:
    """Compare each record of a zip archive with its CRC, which ``torch.load`` does not do.

    Raises:
        CheckpointError: A record is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        # Records are never folders: torch would read one that is marked as a folder (by a bit of its entry) as zeros.
        damaged = next((record.filename for record in records if record.external_attr & 0x10), None)
        # All checksums are 0 where torch.serialization.set_crc32_options turned them off.
        if damaged is None and any(record.CRC for record in records):
            damaged = archive.testzip()
    if damaged is not None:
        raise CheckpointError(
            f'{where} is damaged: its record {damaged!r} does not have the checksum that it was saved with'
        )


def _is_web_page(path: str | Path) -> bool:
    """Whether a file starts like HTML: the login page of a proxy, or an error message."""
    with Path(path).open('rb') as file:
        return file.read(512).lstrip(b'\xef\xbb\xbf \t\r\n').lower().startswith((b'<!doctype', b'<html', b'<head', b'<?xml'))


def _has_checkpoint_header(path: str | Path) -> bool:
    """Whether a file starts like a pickle or is a zip archive, the two formats of ``torch.save``."""
    with Path(path).open('rb') as file:
        return file.read(1) == pickle.PROTO or zipfile.is_zipfile(file)
