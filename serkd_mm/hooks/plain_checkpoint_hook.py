from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Save only tensors and plain values in checkpoints, so that any torch loads them safely, without this package.

    mmengine 0.10 saves its logged history as ``HistoryBuffer`` objects. Since torch 2.6 such a file is refused ("Weights
    only load failed"), also by mmpretrain's own tools. This hook saves the history as tensors, and restores the same
    objects when a run resumes.
    """

    priority = 'LOWEST'

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Convert the logged history, the meta information and the schedules to tensors and plain values."""
        for part in ('message_hub', 'meta', 'param_schedulers'):
            if part in checkpoint:
                checkpoint[part] = _to_plain(checkpoint[part])

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Restore the logged history before the runner resumes from it."""
        scalars = checkpoint.get('message_hub', {}).get('log_scalars', {})
        for name, value in scalars.items():
            if isinstance(value, dict):
                scalars[name] = HistoryBuffer(
                    value['log_history'].cpu().numpy(), value['count_history'].cpu().numpy(), value['max_length']
                )


def _to_plain(value: Any) -> Any:
    """Convert a value to tensors and plain values, which safe loading accepts."""
    if isinstance(value, HistoryBuffer):
        log_history, count_history = map(torch.from_numpy, value.data)
        return {'log_history': log_history, 'count_history': count_history, 'max_length': value.max_length}
    if isinstance(value, np.ndarray) and value.dtype.kind in 'biuf':
        return torch.from_numpy(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):  # Including Counter, the milestones of a schedule, which torch before 2.4 refuses.
        return {name: _to_plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to_plain(item) for item in value)
    return value
