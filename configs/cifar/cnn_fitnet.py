# FitNet: logits and features.
_base_ = './cnn_serkd.py'
model = dict(losses={name: None for name in _base_.model.losses if name.startswith(('loss_rd', 'loss_ra'))})
