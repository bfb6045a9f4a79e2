# SeRKD (arXiv:2503.21269) with the paper's loss weights: relations between 4x4 superpixels of the 8x8 tokens of the
# student, and of the last map of the teacher with a stride of 16.
_base_ = ['./vit_labels.py', './_base_/teacher.py']

model = dict(
    _delete_=True,
    type='RelationDistiller',
    input_size=(3, 64, 64),
    student=dict(
        model={**_base_.model, 'head': {**_base_.model.head, 'distilled_training': True}},
        taps=dict(patches='backbone.layers[-1]', logits='head.layers.head_dist'),
    ),
    teacher=dict(taps=dict(patches='model.blocks[4]', logits='model.classifier'), **_base_.teacher),
    views=dict(
        tokens=dict(tap='patches', tokenizer=dict(type='GridTokenizer'), merger=dict(type='AvgPoolMerger', grid=8)),
        superpixels=dict(
            tap='patches', tokenizer=dict(type='GridTokenizer'), merger=dict(type='SuperpixelMerger', grid=4, num_iters=1)
        ),
    ),
    losses=dict(
        loss_kd=dict(type='LogitKLLoss', on='logits', tau=1.0, loss_weight=1.0),
        loss_feat=dict(type='FeatureL2Loss', on='tokens', loss_weight=1.0),
        loss_rd=dict(type='TokenDistanceLoss', on='superpixels', loss_weight=0.5),
        loss_ra=dict(type='TokenAngleLoss', on='superpixels', loss_weight=1.0),
    ),
)
