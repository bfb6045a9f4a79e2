# SEKD (arXiv:2405.08547): logits, and channel graphs of three stages.
_base_ = './cnn_kd.py'
model = dict(losses=dict(loss_sekd=dict(type='ChannelGraphLoss', on='tokens')))
