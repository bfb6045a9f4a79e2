# DeiT (arXiv:2012.12877), soft distillation: weight 0.9 for the labels, 0.1 for the softened logits at tau 3.
_base_ = './deit-ti_mae-b_kd.py'
model = dict(
    losses=dict(loss_cls=dict(loss_weight=0.9), loss_kd=dict(tau=3.0, loss_weight=0.1)),
)
