# Table II: tokens by max pooling.
_base_ = './resnet18_resnet101.py'
model = dict(views={view: dict(tokenizer=dict(mode='max')) for view in _base_.model.views})
