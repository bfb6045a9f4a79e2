# The student, a small DeiT: both heads are trained on the labels of a few images.
_base_ = './_base_/digits.py'

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='DistilledVisionTransformer',
        arch=dict(embed_dims=48, num_layers=2, num_heads=3, feedforward_channels=96),
        img_size=32,
        patch_size=4,
    ),
    head=dict(
        type='DeiTDistilledClsHead',
        num_classes=10,
        in_channels=48,
        distilled_training=False,
        loss=dict(type='CrossEntropyLoss'),
    ),
    init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
)
