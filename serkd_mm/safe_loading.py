"""Resuming with torch's safe loading left on."""

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load(weights_only=True)``, the default from torch 2.6, read the training state that mmengine saves.

    mmengine 0.10 keeps the logged history as ``HistoryBuffer`` objects around NumPy arrays. Those few classes hold data and
    run nothing; everything else stays refused. Before torch 2.4 there is no such list, nor a need for it.
    """
    if not hasattr(torch.serialization, 'add_safe_globals'):
        return
    multiarray = getattr(np, '_core', np.core if np.__version__ < '2' else None).multiarray
    number_types = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)]
    torch.serialization.add_safe_globals(
        [HistoryBuffer, np.ndarray, np.dtype, multiarray._reconstruct, multiarray.scalar, *number_types]
    )
