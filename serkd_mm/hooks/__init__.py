"""Training hooks: reproducible epochs, checkpoints that survive a killed process, and early errors on unusable data."""

from .batch_size_hook import BatchSizeHook
from .checkpoint_match_hook import CheckpointMatchHook
from .class_names_hook import ClassNamesHook
from .complete_checkpoint_hook import CompleteCheckpointHook
from .data_errors import DataError
from .epoch_seed_hook import EpochSeedHook
from .finite_loss_hook import FiniteLossHook, NonFiniteLossError
from .image_error_hook import ImageErrorHook
from .label_range_hook import LabelRangeHook
from .plain_checkpoint_hook import PlainCheckpointHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .skipped_images_hook import SkippedImagesHook
from .strategy_hook import StrategyHook
from .work_dir_check_hook import WorkDirCheckHook
from .work_dir_lock_hook import WorkDirLockHook

__all__ = [
    'BatchSizeHook',
    'CheckpointMatchHook',
    'ClassNamesHook',
    'CompleteCheckpointHook',
    'DataError',
    'EpochSeedHook',
    'FiniteLossHook',
    'ImageErrorHook',
    'LabelRangeHook',
    'NonFiniteLossError',
    'PlainCheckpointHook',
    'SafeCheckpointHook',
    'SkippedImagesHook',
    'StrategyHook',
    'WorkDirCheckHook',
    'WorkDirLockHook',
]
