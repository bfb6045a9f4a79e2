# A small ResNet-18, trained from scratch on labels only, in bfloat16. Its stages have maps of 32x32, 16x16, 8x8 and 4x4.
_base_ = './_base_/tiny-imagenet-100.py'

model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels=16, base_channels=16, strides=(2, 2, 2, 2), out_indices=(3,)),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=100, in_channels=128, loss=dict(type='CrossEntropyLoss')),
)
optim_wrapper = dict(type='AutocastOptimWrapper')
