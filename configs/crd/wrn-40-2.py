# WRN-40-2 on the labels of CIFAR-100, a teacher of the CRD benchmark (arXiv:1910.10699).
_base_ = './_base_/cifar100.py'
model = dict(
    type='ImageClassifier',
    backbone=dict(type='CRDWideResNet', depth=40, widen_factor=2),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=100, in_channels=128, loss=dict(type='CrossEntropyLoss'), init_cfg=None),
)
