# CSKD (arXiv:2307.08500): DeiT's hard distillation, and at every position the class that the teacher predicts there; its
# mix of dense and global logits moves to the global ones. Both classifiers are applied to 7x7 positions.
_base_ = './deit-ti_mae-b_deit-hard.py'
model = dict(
    student=dict(taps=dict(dense_logits='backbone.ln1 | head.layers.head_dist')),
    teacher=dict(taps=dict(dense_logits='backbone.layers[-1] | backbone.ln2 | head.fc')),
    views=dict(
        dense=dict(tap='dense_logits', tokenizer=dict(type='GridTokenizer'), merger=dict(type='AvgPoolMerger', cell=2))
    ),
    losses=dict(loss_dense=dict(type='DenseLogitsLoss', on='dense', ratio=dict(type='Linear', begin=1.0, end=0.0))),
)
