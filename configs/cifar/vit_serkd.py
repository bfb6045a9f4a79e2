# SeRKD (arXiv:2503.21269) on the ViT pair, with the paper's loss weights.
_base_ = './vit_labels.py'

model = dict(
    _delete_=True,
    type='RelationDistiller',
    student=dict(
        model={**_base_.model, 'head': {**_base_.model.head, 'distilled_training': True}},
        taps=dict(patches='backbone.layers[-1]', logits='head.layers.head_dist'),
    ),
    teacher=dict(
        model='configs/cifar/vit_teacher.py',
        checkpoint='work_dirs/cifar/vit_teacher/epoch_16.pth',
        taps=dict(patches='backbone.layers[-1]', logits='head'),
    ),
    views=dict(
        tokens=dict(tap='patches', tokenizer=dict(type='PatchTokenizer'), merger=dict(type='IdentityMerger')),
        superpixels=dict(
            tap='patches', tokenizer=dict(type='PatchTokenizer'), merger=dict(type='SuperpixelMerger', cell=2, num_iters=1)
        ),
    ),
    losses=dict(
        loss_kd=dict(type='LogitKLLoss', on='logits', tau=1.0, loss_weight=1.0),
        loss_feat=dict(type='FeatureL2Loss', on='tokens', loss_weight=1.0),
        loss_rd=dict(type='TokenDistanceLoss', on='superpixels', loss_weight=0.5),
        loss_ra=dict(type='TokenAngleLoss', on='superpixels', loss_weight=1.0),
    ),
)
