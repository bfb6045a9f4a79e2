# DeiT [24], hard distillation: half of the labels and half of the class that the teacher predicts.
_base_ = './deit-ti_mae-b_kd.py'
model = dict(
    student=dict(model=dict(head=dict(loss=dict(loss_weight=0.5)))),
    losses=dict(loss_kd=dict(_delete_=True, type='HardLabelLoss', on='logits', loss_weight=0.5)),
)
