# CSKD (arXiv:2307.08500): DeiT's hard distillation, and hard labels for each position of the teacher's last map (5x5), at
# first the teacher's own for the position and at last those for the image.
_base_ = './vit_kd.py'
model = dict(
    student=dict(taps=dict(dense='backbone.layers[-1] | backbone.ln1 | head.layers.head_dist')),
    teacher=dict(taps=dict(dense='model.bn2 | model.classifier')),
    views=dict(positions=dict(tap='dense', tokenizer=dict(type='GridTokenizer'), merger=dict(type='AvgPoolMerger', grid=5))),
    losses=dict(
        loss_cls=dict(loss_weight=0.5),
        loss_kd=dict(_delete_=True, type='HardLabelLoss', on='logits', loss_weight=0.5),
        loss_dense=dict(type='DenseLogitsLoss', on='positions', ratio=dict(type='Linear', begin=1.0, end=0.0)),
    ),
)
