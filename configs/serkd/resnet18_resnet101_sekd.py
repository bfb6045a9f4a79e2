# SEKD (arXiv:2405.08547): logits, and graphs of the channels of three stages.
_base_ = './resnet18_resnet101_kd.py'
model = dict(losses=dict(loss_sekd=dict(type='ChannelGraphLoss', on='tokens')))
