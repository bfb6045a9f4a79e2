# CSKD (arXiv:2307.08500): DeiT's hard distillation, and hard labels for each patch, at first the teacher's own for the patch
# and at last those for the image. Both grids are 8x8, so nothing is pooled.
_base_ = './vit_kd.py'
model = dict(
    student=dict(taps=dict(dense='backbone.layers[-1] | backbone.ln1 | head.layers.head_dist')),
    teacher=dict(taps=dict(dense='backbone.layers[-1] | backbone.ln1 | head.layers.head')),
    views=dict(positions=dict(tap='dense', tokenizer=dict(type='PatchTokenizer'), merger=dict(type='IdentityMerger'))),
    losses=dict(
        loss_cls=dict(loss_weight=0.5),
        loss_kd=dict(_delete_=True, type='HardLabelLoss', on='logits', loss_weight=0.5),
        loss_dense=dict(type='DenseLogitsLoss', on='positions', ratio=dict(type='Linear', begin=1.0, end=0.0)),
    ),
)
