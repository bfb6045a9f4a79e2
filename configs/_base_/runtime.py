# mmpretrain's runtime, with the hooks that make long runs safe.
_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_imports = dict(imports=['serkd_mm'], allow_failed_imports=False)

# Checkpoints are written atomically; an older one is removed after the next one is complete.
default_hooks = dict(checkpoint=dict(type='SafeCheckpointHook', max_keep_ckpts=3, save_best='auto'))
custom_hooks = [
    dict(type='WorkDirLockHook'),  # refuses a second run in the same work folder
    dict(type='WorkDirCheckHook'),  # refuses to overwrite checkpoints; resumes in a moved or copied folder
    dict(type='PlainCheckpointHook'),  # checkpoints load in any torch and in mmpretrain's own tools
    dict(type='StrategyHook'),  # refuses weights in half precision, DeepSpeed, and FSDP of mmengine alone
    dict(type='CheckpointMatchHook'),  # refuses to start from a checkpoint of another model
    dict(type='ResumeCheckHook'),  # refuses checkpoints that cannot continue the training exactly
    dict(type='EpochSeedHook'),  # resuming is bit-exact, and every rank draws its own augmentation
    dict(type='IterationSeedHook'),  # the same for iteration-based training
    dict(type='AccumulationHook'),  # no checkpoint lies between two steps of the optimizer
    dict(type='ResumeValidationHook'),  # a validation that was interrupted is made up for
    dict(type='LossScheduleHook'),  # moves loss weights and ratios that change over the training
    dict(type='HistoryLengthHook'),  # the history of scalars stays short
    dict(type='FiniteLossHook'),  # stops at a loss that is NaN or infinite, before a checkpoint is saved
    dict(type='FiniteStateHook'),  # never saves weights or an optimizer state that are NaN or infinite
    dict(type='ClassNamesHook'),  # reports class folders that differ between training and validation
    dict(type='TeacherClassesHook'),  # compares the names in a file of teacher.classes with the training data
    dict(type='LabelRangeHook'),  # reports labels without an output of the head, before training
    dict(type='EvaluationOutputsHook'),  # computes what the metrics of label-free training read
    dict(type='UntrainedHeadHook'),  # records a class head that nothing trains, and refuses to report its accuracy
    dict(type='BatchSizeHook'),  # reports batches too small to train, and epochs without any
    dict(type='SkippedImagesHook'),  # warns about image files that are not read
    dict(type='ImageErrorHook'),  # names an image file that cannot be read
]
