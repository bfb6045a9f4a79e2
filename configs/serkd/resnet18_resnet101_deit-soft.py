# DeiT [24], soft distillation: 0.9 of the labels and 0.1 of the softened logits at tau 3, DeiT's own setting.
_base_ = './resnet18_resnet101_kd.py'
model = dict(
    student=dict(model=dict(head=dict(loss=dict(loss_weight=0.9)))),
    losses=dict(loss_kd=dict(tau=3.0, loss_weight=0.1)),
)
