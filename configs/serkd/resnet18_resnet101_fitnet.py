# FitNet [52]: logits and the features of three stages.
_base_ = './resnet18_resnet101.py'
model = dict(losses={name: None for name in _base_.model.losses if name.startswith(('loss_rd', 'loss_ra'))})
