# CSKD (arXiv:2307.08500): DeiT's hard distillation, and at every position the class that the teacher predicts there; its
# mix of dense and global logits moves to the global ones.
_base_ = './resnet18_resnet101_deit-hard.py'
dense = dict(dense_logits='backbone.layer4 | head.fc')
model = dict(
    student=dict(taps=dense),
    teacher=dict(taps=dense),
    views=dict(dense=dict(tap='dense_logits', tokenizer=dict(type='GridTokenizer'), merger=dict(type='IdentityMerger'))),
    losses=dict(loss_dense=dict(type='DenseLogitsLoss', on='dense', ratio=dict(type='Linear', begin=1.0, end=0.0))),
)
