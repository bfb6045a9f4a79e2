# SeRKD on CNNs (paper, section IV-A.2 and Table II): ResNet-18 learns from ResNet-101, each of the first three stages
# tokenised to 14x14 by average pooling and merged into superpixels. The weights of what every stage has (relations, and L_F,
# of which the paper does not say it) are divided by the number of stages.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs32.py',
    'mmpretrain::_base_/schedules/imagenet_bs256.py',
    '../_base_/runtime.py',
]

stages = dict(stage1=4, stage2=2, stage3=1)  # tap: window that makes 14x14 tokens of a 224x224 image
taps = dict(stage1='backbone.layer1', stage2='backbone.layer2', stage3='backbone.layer3', pooled='neck', logits='head')
tokenizer = dict(type='PoolTokenizer', mode='avg')

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
        channels_last=True,  # how convolutions run faster
    ),
    teacher=dict(model='resnet101_8xb32_in1k', checkpoint=True, taps=taps, channels_last=True),
    views={
        **{
            f'tokens_{stage}': dict(
                tap=stage, tokenizer=dict(**tokenizer, window=window), merger=dict(type='IdentityMerger')
            )
            for stage, window in stages.items()
        },
        **{
            f'superpixels_{stage}': dict(
                tap=stage,
                tokenizer=dict(**tokenizer, window=window),
                merger=dict(type='SuperpixelMerger', cell=2, num_iters=1),
                refiner=dict(type='SuperpixelRefiner'),
            )
            for stage, window in stages.items()
        },
    },
    losses={
        'loss_kd': dict(type='LogitKLLoss', on='logits', tau=1.0, loss_weight=1.0),
        **{f'loss_feat_{s}': dict(type='FeatureL2Loss', on=f'tokens_{s}', loss_weight=1.0 / 3) for s in stages},
        **{f'loss_rd_{s}': dict(type='TokenDistanceLoss', on=f'superpixels_{s}', loss_weight=0.5 / 3) for s in stages},
        **{f'loss_ra_{s}': dict(type='TokenAngleLoss', on=f'superpixels_{s}', loss_weight=1.0 / 3) for s in stages},
    },
)
