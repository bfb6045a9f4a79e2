"""Hooks around training: what is saved, how, when a run has to stop, and which data it can not use."""

from .data_errors import DataError
from .epoch_seed_hook import EpochSeedHook
from .finite_loss_hook import FiniteLossHook, NonFiniteLossError
from .image_error_hook import ImageErrorHook
from .label_range_hook import LabelRangeHook
from .plain_checkpoint_hook import PlainCheckpointHook
from .safe_checkpoint_hook import SafeCheckpointHook

__all__ = [
    'DataError',
    'EpochSeedHook',
    'FiniteLossHook',
    'ImageErrorHook',
    'LabelRangeHook',
    'NonFiniteLossError',
    'PlainCheckpointHook',
    'SafeCheckpointHook',
]
