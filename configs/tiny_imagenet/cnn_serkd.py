# SeRKD (arXiv:2503.21269) with the paper's loss weights, as configs/serkd/resnet18_resnet101.py: three stages, each
# tokenized to 8x8 and merged to 4x4 superpixels.
_base_ = ['./cnn_labels.py', './_base_/teacher.py']

stages = ['stage1', 'stage2', 'stage3']
tokenizer = dict(type='PoolTokenizer', mode='avg', grid=8)
stage_taps = dict(stage1='model.blocks[1]', stage2='model.blocks[2]', stage3='model.blocks[4]')

model = dict(
    _delete_=True,
    type='RelationDistiller',
    input_size=(3, 64, 64),
    student=dict(
        model=_base_.model,
        taps=dict(stage1='backbone.layer1', stage2='backbone.layer2', stage3='backbone.layer3', logits='head'),
        channels_last=True,
    ),
    teacher=dict(taps=dict(**stage_taps, logits='model.classifier'), **_base_.teacher),
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
