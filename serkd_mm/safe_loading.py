"""Reading mmengine's training state with torch's safe loading left on."""

from collections.abc import Callable

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.utils import digit_version


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load(weights_only=True)``, the default from torch 2.6, read what mmengine 0.10 saves.

    Such a checkpoint holds the logged history as ``HistoryBuffer`` objects around NumPy arrays. Those few classes hold data
    and run nothing; all else stays refused. Before torch 2.6 unsafe loading is the default, and mmengine reads its own.
    """
    if digit_version(torch.__version__) < digit_version('2.6'):
        return
    multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray
    number_types = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)]
    torch.serialization.add_safe_globals(
        [HistoryBuffer, np.ndarray, np.dtype, multiarray._reconstruct, multiarray.scalar, *number_types]
    )
    torch.serialization.add_safe_globals([(_statistics_method, 'builtins.getattr')])


def _statistics_method(owner: type, name: str) -> Callable:
    """What a pickled history may look up: its own statistics, in place of any attribute of anything."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise ValueError(f'a checkpoint asks for the attribute {name!r} of {owner!r}')
    return getattr(HistoryBuffer, name)
