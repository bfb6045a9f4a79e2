# SeRKD on CNNs (arXiv:2503.21269, section IV-A.2 and Table II): ResNet-18 learns from ResNet-101. Each of the first three
# stages is tokenized to 14x14 by average pooling and merged into superpixels. A loss on a view of three stages is the mean
# over the stages: the relations as in the paper, and L_F, for which the paper gives no rule.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs32.py',
    'mmpretrain::_base_/schedules/imagenet_bs256.py',
    '../_base_/runtime.py',
]

taps = dict(stage1='backbone.layer1', stage2='backbone.layer2', stage3='backbone.layer3', pooled='neck', logits='head')
stages = ['stage1', 'stage2', 'stage3']
tokenizer = dict(type='PoolTokenizer', mode='avg', grid=14)

model = dict(
    type='RelationDistiller',
    student=dict(
        model=dict(
            type='ImageClassifier',
            backbone=dict(type='ResNet', depth=18, num_stages=4, out_indices=(3,), style='pytorch'),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=1000, in_channels=512, loss=dict(type='CrossEntropyLoss')),
        ),
        taps=taps,
        channels_last=True,  # faster convolutions
    ),
    teacher=dict(model='resnet101_8xb32_in1k', checkpoint=True, taps=taps, channels_last=True),
    views=dict(
        tokens=dict(taps=stages, tokenizer=tokenizer, merger=dict(type='IdentityMerger')),
        superpixels=dict(
            taps=stages,
            tokenizer=tokenizer,
            merger=dict(type='SuperpixelMerger', cell=2, num_iters=1),
            refiner=dict(type='SuperpixelRefiner'),
        ),
    ),
    losses=dict(
        loss_kd=dict(type='LogitKLLoss', on='logits', tau=1.0, loss_weight=1.0),
        loss_feat=dict(type='FeatureL2Loss', on='tokens', loss_weight=1.0),
        loss_rd=dict(type='TokenDistanceLoss', on='superpixels', loss_weight=0.5),
        loss_ra=dict(type='TokenAngleLoss', on='superpixels', loss_weight=1.0),
    ),
)
