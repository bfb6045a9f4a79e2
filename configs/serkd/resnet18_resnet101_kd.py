# KD [1]: logit distillation alone (Table II).
_base_ = './resnet18_resnet101.py'
model = dict(losses={name: None for name in _base_.model.losses if name != 'loss_kd'})
