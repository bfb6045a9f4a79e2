# SeRKD (arXiv:2503.21269) with the weights of its paper, between stages of 32x32, 16x16 and 8x8, each tokenized to 8x8.
_base_ = './cifar100.py'

taps = dict(stage1='backbone.layer1', stage2='backbone.layer2', stage3='backbone.layer3', pooled='neck', logits='head')
stages = ['stage1', 'stage2', 'stage3']
tokenizer = dict(type='PoolTokenizer', mode='avg', grid=8)

model = dict(
    type='RelationDistiller',
    input_size=(3, 32, 32),
    student=dict(taps=taps),
    teacher=dict(taps=taps),
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
