"""Training hooks: exact resuming, checkpoints that survive a killed process, and early errors on unusable data."""

from .accumulation_hook import AccumulationHook
from .batch_size_hook import BatchSizeHook
from .checkpoint_match_hook import CheckpointMatchHook
from .class_names_hook import ClassNamesHook
from .complete_checkpoint_hook import CompleteCheckpointHook
from .data_errors import DataError
from .epoch_seed_hook import EpochSeedHook
from .evaluation_outputs_hook import EvaluationOutputsHook
from .finite_loss_hook import FiniteLossHook, NonFiniteLossError
from .finite_state_hook import FiniteStateHook
from .history_length_hook import HistoryLengthHook
from .image_error_hook import ImageErrorHook
from .iteration_seed_hook import IterationSeedHook
from .label_range_hook import LabelRangeHook
from .loss_schedule_hook import LossScheduleHook
from .plain_checkpoint_hook import PlainCheckpointHook
from .resume_check_hook import ResumeCheckHook, ResumeError
from .resume_validation_hook import ResumeValidationHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .skipped_images_hook import SkippedImagesHook
from .strategy_hook import StrategyHook
from .tap_curriculum_hook import TapCurriculumHook
from .teacher_classes_hook import TeacherClassesHook
from .untrained_head_hook import UntrainedHeadHook
from .work_dir_check_hook import WorkDirCheckHook
from .work_dir_lock_hook import WorkDirLockHook

__all__ = [
    'AccumulationHook',
    'BatchSizeHook',
    'CheckpointMatchHook',
    'ClassNamesHook',
    'CompleteCheckpointHook',
    'DataError',
    'EpochSeedHook',
    'EvaluationOutputsHook',
    'FiniteLossHook',
    'FiniteStateHook',
    'HistoryLengthHook',
    'ImageErrorHook',
    'IterationSeedHook',
    'LabelRangeHook',
    'LossScheduleHook',
    'NonFiniteLossError',
    'PlainCheckpointHook',
    'ResumeCheckHook',
    'ResumeError',
    'ResumeValidationHook',
    'SafeCheckpointHook',
    'SkippedImagesHook',
    'StrategyHook',
    'TapCurriculumHook',
    'TeacherClassesHook',
    'UntrainedHeadHook',
    'WorkDirCheckHook',
    'WorkDirLockHook',
]
