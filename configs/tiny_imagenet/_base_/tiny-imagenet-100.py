# 100 classes of Tiny ImageNet as an image folder of 64x64 pixels: `train` holds 200 images of each class, of which the first
# 50 are used, and `val` holds 50. The schedule is short enough for a CPU; tools/experiments/tiny_imagenet.py has another one
# for a GPU.
_base_ = '../../_base_/runtime.py'

data_preprocessor = dict(num_classes=100, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=64, padding=8, padding_mode='reflect'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=64, edge='short'),  # for other pictures: the images of the data set stay as they are
    dict(type='CenterCrop', crop_size=64),
    dict(type='PackInputs'),
]
few = [200 * label + number for label in range(100) for number in range(50)]

train_dataloader = dict(
    batch_size=50,
    num_workers=0,
    dataset=dict(
        type='CustomDataset', data_root='data/tiny-imagenet-100', data_prefix='train', indices=few, pipeline=train_pipeline
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=0,
    dataset=dict(type='CustomDataset', data_root='data/tiny-imagenet-100', data_prefix='val', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
)
val_evaluator = [dict(type='Accuracy', topk=(1, 5))]
test_dataloader = val_dataloader
test_evaluator = val_evaluator

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=1, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=8, val_interval=8)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=4, max_keep_ckpts=1, save_best=None))
randomness = dict(seed=0)
