# A linear classifier on the frozen WRN-16-2 of a distillation on CIFAR-100, for images of other data sets resized to 32x32.
# For another checkpoint: --cfg-options model.backbone.init_cfg.checkpoint=FILE. The schedule is ours.
_base_ = '../../../_base_/runtime.py'

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='CRDWideResNet',
        depth=16,
        widen_factor=2,
        frozen_stages=3,
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/wrn-16-2_wrn-40-2_rrd-kd/epoch_240.pth', prefix='backbone'),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=128, loss=dict(type='CrossEntropyLoss')),
)

# The statistics of CIFAR-100, as the backbone was trained.
data_preprocessor = dict(mean=[129.3105, 124.1085, 112.404], std=[68.2125, 65.4075, 70.4055], to_rgb=True)
resize = dict(type='Resize', scale=(32, 32), backend='pillow', interpolation='bilinear')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    resize,
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), resize, dict(type='PackInputs')]

train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    dataset=dict(type='CustomDataset', data_prefix='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=4,
    dataset=dict(type='CustomDataset', data_prefix='val', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1,))
test_dataloader = val_dataloader
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.0))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[30, 60, 90], gamma=0.1)
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=64)
