# Any two classifiers of mmpretrain's zoo on ImageNet-1k, with DeiT's schedule. A child config names student and teacher.
_base_ = [
    '../../_base_/models/any_pair.py',
    '../../_base_/datasets/imagenet_deit_224.py',
    '../../_base_/schedules/adamw_bs1024_300e.py',
    '../../_base_/runtime.py',
]

model = dict(teacher=dict(checkpoint=True))  # the zoo's weights
