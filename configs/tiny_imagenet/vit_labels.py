# A small ViT with 8x8 tokens, trained from scratch: both heads learn from labels only.
_base_ = './_base_/tiny-imagenet-100.py'

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='DistilledVisionTransformer',
        arch=dict(embed_dims=96, num_layers=4, num_heads=3, feedforward_channels=192),
        img_size=64,
        patch_size=8,
    ),
    head=dict(
        type='DeiTDistilledClsHead',
        num_classes=100,
        in_channels=96,
        distilled_training=False,
        loss=dict(type='CrossEntropyLoss'),
    ),
    init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
)
