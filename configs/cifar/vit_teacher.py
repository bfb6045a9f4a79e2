# The teacher of the ViT pair, trained on the labels of all training images.
_base_ = './_base_/cifar10-mini.py'

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=96, num_layers=4, num_heads=6, feedforward_channels=192),
        img_size=32,
        patch_size=4,
    ),
    head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=96, loss=dict(type='CrossEntropyLoss')),
    init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
)
train_dataloader = dict(dataset=dict(indices=None))
