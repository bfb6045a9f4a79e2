# DeiT (arXiv:2012.12877), hard distillation: half of the labels, half of the class predicted by the teacher.
_base_ = './resnet18_resnet101_kd.py'
model = dict(
    losses=dict(
        loss_cls=dict(loss_weight=0.5),
        loss_kd=dict(_delete_=True, type='HardLabelLoss', on='logits', loss_weight=0.5),
    ),
)
