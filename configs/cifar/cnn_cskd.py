# CSKD (arXiv:2307.08500): DeiT's hard distillation, and hard labels for each position of the last map, at first the
# teacher's own for the position and at last those for the image. The student has one head for all three.
_base_ = './cnn_kd.py'
taps = dict(dense='backbone.layer4 | head.fc')
model = dict(
    student=dict(taps=taps),
    teacher=dict(taps=taps),
    views=dict(positions=dict(tap='dense', tokenizer=dict(type='GridTokenizer'), merger=dict(type='IdentityMerger'))),
    losses=dict(
        loss_cls=dict(loss_weight=0.5),
        loss_kd=dict(_delete_=True, type='HardLabelLoss', on='logits', loss_weight=0.5),
        loss_dense=dict(type='DenseLogitsLoss', on='positions', ratio=dict(type='Linear', begin=1.0, end=0.0)),
    ),
)
