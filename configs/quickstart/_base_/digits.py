# Handwritten digits (scikit-learn's, 8x8 pixels) as image folders: `train` holds all training images, for the teacher, `few`
# 10 images of each class, for the students, and `val` the images that both are evaluated on.
_base_ = '../../_base_/small_runs.py'

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=32, crop_ratio_range=(0.7, 1.0), interpolation='bicubic'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(32, 32), interpolation='bicubic'),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(data_root='data/digits', data_prefix='few', pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root='data/digits', pipeline=test_pipeline))
test_dataloader = val_dataloader
