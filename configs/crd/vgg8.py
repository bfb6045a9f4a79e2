# VGG-8 on the labels of CIFAR-100, a student of the CRD benchmark (arXiv:1910.10699).
_base_ = './_base_/cifar100.py'
model = dict(
    type='ImageClassifier',
    backbone=dict(type='CRDVGG', depth=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=100, in_channels=512, loss=dict(type='CrossEntropyLoss')),
)
