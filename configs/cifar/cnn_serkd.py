# SeRKD on the CNN pair, as in configs/serkd/resnet18_resnet101.py: three stages, each tokenised to 8x8.
_base_ = './cnn_labels.py'

stages = dict(stage1=4, stage2=2, stage3=1)  # tap: window that makes 8x8 tokens of a 32x32 image
taps = dict(stage1='backbone.layer1', stage2='backbone.layer2', stage3='backbone.layer3', pooled='neck', logits='head')

model = dict(
    _delete_=True,
    type='RelationDistiller',
    input_size=(3, 32, 32),
    student=dict(model=_base_.model, taps=taps),
    teacher=dict(model='configs/cifar/cnn_teacher.py', checkpoint='work_dirs/cifar/cnn_teacher/epoch_16.pth', taps=taps),
    views={
        **{
            f'tokens_{stage}': dict(
                tap=stage,
                tokenizer=dict(type='PoolTokenizer', mode='avg', window=window),
                merger=dict(type='IdentityMerger'),
            )
            for stage, window in stages.items()
        },
        **{
            f'superpixels_{stage}': dict(
                tap=stage,
                tokenizer=dict(type='PoolTokenizer', mode='avg', window=window),
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
