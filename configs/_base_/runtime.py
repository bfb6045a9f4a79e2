# mmpretrain's runtime, and what makes long runs safe.
_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_imports = dict(imports=['serkd_mm'], allow_failed_imports=False)

# Written whole or not at all; an older one is removed when the next is there.
default_hooks = dict(checkpoint=dict(type='SafeCheckpointHook', max_keep_ckpts=3, save_best='auto'))
custom_hooks = [
    dict(type='PlainCheckpointHook'),  # checkpoints that any torch and mmpretrain's own tools read
    dict(type='EpochSeedHook'),  # a run that was resumed is the run that was not stopped
    dict(type='FiniteLossHook'),  # stops at a loss that is not a number, before anything of it is saved
    dict(type='LabelRangeHook'),  # labels that the head has no output for are told before training
    dict(type='ImageErrorHook'),  # a file that is no image is named
]
