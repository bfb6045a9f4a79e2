"""Training hooks: reproducible epochs, checkpoints that survive a killed process, and early errors on unusable data."""

from .complete_checkpoint_hook import CompleteCheckpointHook
from .batch_size_hook import BatchSizeHook
from .class_names_hook import ClassNamesHook
from .data_errors import DataError
from .epoch_seed_hook import EpochSeedHook
from .finite_loss_hook import FiniteLossHook, NonFiniteLossError
from .image_error_hook import ImageErrorHook
from .label_range_hook import LabelRangeHook
from .plain_checkpoint_hook import PlainCheckpointHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .strategy_hook import StrategyHook
from .skipped_images_hook import SkippedImagesHook
from .work_dir_check_hook import WorkDirCheckHook
from .work_dir_lock_hook import WorkDirLockHook

__all__ = [
    'CompleteCheckpointHook',
    'BatchSizeHook',
    'ClassNamesHook',
    'DataError',
    'EpochSeedHook',
    'FiniteLossHook',
    'ImageErrorHook',
    'LabelRangeHook',
    'NonFiniteLossError',
    'PlainCheckpointHook',
    'SafeCheckpointHook',
    'StrategyHook',
    'SkippedImagesHook',
    'WorkDirCheckHook',
    'WorkDirLockHook',
]
