# Logit distillation alone.
_base_ = './cnn_serkd.py'
model = dict(losses={name: None for name in _base_.model.losses if name != 'loss_kd'})
