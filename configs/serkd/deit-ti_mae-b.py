# SeRKD-Ti (arXiv:2503.21269, section V-A): DeiT-Ti learns from MAE ViT-B by relations between superpixel tokens.
_base_ = [
    '../_base_/datasets/imagenet_deit_224.py',
    '../_base_/schedules/adamw_bs1024_300e.py',
    '../_base_/runtime.py',
]

model = dict(
    type='RelationDistiller',
    student=dict(
        model=dict(
            type='ImageClassifier',
            backbone=dict(type='DistilledVisionTransformer', arch='deit-tiny', img_size=224, patch_size=16),
            head=dict(
                type='DeiTDistilledClsHead',
                num_classes=1000,
                in_channels=192,
                loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
            ),
            init_cfg=[
                dict(type='TruncNormal', layer='Linear', std=0.02),
                dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
            ],
            train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
        ),
        taps=dict(patches='backbone.layers[-1]', logits='head.layers.head_dist'),
    ),
    teacher=dict(
        model='vit-base-p16_mae-1600e-pre_8xb128-coslr-100e_in1k',
        checkpoint=True,  # the zoo's weights; otherwise a path or URL
        taps=dict(patches='backbone.layers[-1]', logits='head'),
    ),
    views=dict(
        tokens=dict(tap='patches', tokenizer=dict(type='PatchTokenizer'), merger=dict(type='IdentityMerger')),
        superpixels=dict(
            tap='patches',
            tokenizer=dict(type='PatchTokenizer'),
            merger=dict(type='SuperpixelMerger', cell=2, num_iters=1),
        ),
    ),
    losses=dict(
        loss_kd=dict(type='LogitKLLoss', on='logits', tau=1.0, loss_weight=1.0),
        loss_feat=dict(type='FeatureL2Loss', on='tokens', loss_weight=1.0),
        loss_rd=dict(type='TokenDistanceLoss', on='superpixels', loss_weight=0.5),
        loss_ra=dict(type='TokenAngleLoss', on='superpixels', loss_weight=1.0),
    ),
)
