from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Save checkpoints of tensors and plain values only, which every torch reads safely and without this package.

    mmengine 0.10 puts its logged history into a checkpoint as objects of its own. From torch 2.6 on such a file is refused
    ("Weights only load failed"), by mmpretrain's own tools too. With this hook the history is saved as tensors, and made
    into the same objects again when a run resumes.
    """

    priority = 'LOWEST'

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Replace what is neither a tensor nor a plain value in the history, the meta information and the schedules."""
        for part in ('message_hub', 'meta', 'param_schedulers'):
            if part in checkpoint:
                checkpoint[part] = _plain(checkpoint[part])

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Restore the logged history before the runner resumes from it."""
        scalars = checkpoint.get('message_hub', {}).get('log_scalars', {})
        for name, value in scalars.items():
            if isinstance(value, dict):
                scalars[name] = HistoryBuffer(
                    value['log_history'].cpu().numpy(), value['count_history'].cpu().numpy(), value['max_length']
                )


def _plain(value: Any) -> Any:
    """The same value without objects that safe loading refuses."""
    if isinstance(value, HistoryBuffer):
        log_history, count_history = value.data
        return {
            'log_history': torch.from_numpy(log_history),
            'count_history': torch.from_numpy(count_history),
            'max_length': value.max_length,
        }
    if isinstance(value, np.ndarray) and value.dtype.kind in 'biuf':
        return torch.from_numpy(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):  # A Counter too: the milestones of a schedule, which torch before 2.4 refuses.
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value
