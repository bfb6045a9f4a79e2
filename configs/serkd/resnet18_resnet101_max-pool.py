# Table II: tokens by max pooling.
_base_ = './resnet18_resnet101.py'
model = dict(views=dict(tokens=dict(tokenizer=dict(mode='max')), superpixels=dict(tokenizer=dict(mode='max'))))
