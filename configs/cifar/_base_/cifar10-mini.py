# A subset of CIFAR-10 as an image folder: `train` holds 1,000 images of each class and `val` 200. Teachers train on all of
# `train`, students on the first 200 images of each class, for the same number of epochs.
_base_ = '../../_base_/small_runs.py'

data_preprocessor = dict(mean=[125.307, 122.961, 113.8575], std=[51.5865, 50.847, 51.255])
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
few = [1000 * label + number for label in range(10) for number in range(200)]

train_dataloader = dict(batch_size=100, dataset=dict(data_root='data/cifar10-mini', indices=few, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root='data/cifar10-mini', pipeline=test_pipeline))
test_dataloader = val_dataloader

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=True, begin=0, end=2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=2, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=16, val_interval=4)
default_hooks = dict(checkpoint=dict(interval=4))
