# Base of trainings that run on a CPU: image folders of 32x32 pixels, a short schedule, and the runtime.
custom_imports = dict(imports=['serkd_mm'], allow_failed_imports=False)
default_scope = 'mmpretrain'

data_preprocessor = dict(num_classes=10, mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
train_dataloader = dict(
    batch_size=50,
    num_workers=0,
    dataset=dict(type='CustomDataset', data_prefix='train'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
)
val_dataloader = dict(
    batch_size=200,
    num_workers=0,
    dataset=dict(type='CustomDataset', data_prefix='val'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)
val_evaluator = dict(type='Accuracy', topk=1)
test_dataloader = val_dataloader
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=5, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=15)
val_cfg = dict()
test_cfg = dict()

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=10),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='SafeCheckpointHook', interval=50, max_keep_ckpts=1),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
# Without EpochSeedHook, which would change the published results: resuming is not exact here.
custom_hooks = [
    dict(type='PlainCheckpointHook'),
    dict(type='CheckpointMatchHook'),
    dict(type='ResumeCheckHook'),
    dict(type='ResumeValidationHook'),
    dict(type='AccumulationHook'),
    dict(type='LossScheduleHook'),
    dict(type='HistoryLengthHook'),
    dict(type='FiniteLossHook'),
    dict(type='FiniteStateHook'),
    dict(type='ClassNamesHook'),
    dict(type='TeacherClassesHook'),
    dict(type='LabelRangeHook'),
    dict(type='BatchSizeHook'),
    dict(type='SkippedImagesHook'),
    dict(type='ImageErrorHook'),
]
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
visualizer = dict(type='UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0)
