# ShuffleNetV2 on the labels of CIFAR-100, a student of the CRD benchmark (arXiv:1910.10699); its learning rate is 0.01.
_base_ = './_base_/cifar100.py'
model = dict(
    type='ImageClassifier',
    backbone=dict(type='CRDShuffleNetV2'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=100, in_channels=1024, loss=dict(type='CrossEntropyLoss'), init_cfg=None),
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
