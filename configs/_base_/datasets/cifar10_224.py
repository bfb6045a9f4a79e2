# CIFAR-10 resized to 224x224, for fine-tuning: CIFAR's usual augmentation at that size, and ImageNet's statistics, with
# which the weights were pretrained. mmpretrain downloads the data.
_base_ = 'mmpretrain::_base_/datasets/cifar10_bs16.py'

# mmpretrain loads RGB images.
# From class numbers, label smoothing would make one-hot labels by waiting for the GPU.
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=False, to_onehot=True)
train_pipeline = [
    dict(type='Resize', scale=(224, 224), interpolation='bicubic'),
    dict(type='RandomCrop', crop_size=224, padding=28),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='Resize', scale=(224, 224), interpolation='bicubic'), dict(type='PackInputs')]

train_dataloader = dict(batch_size=64, num_workers=4, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=64, num_workers=4, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
