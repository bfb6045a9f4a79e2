# SEKD (arXiv:2405.08547): logits, and graphs of the channels at three stages.
_base_ = './cnn_kd.py'
model = dict(losses=dict(loss_sekd=dict(type='ChannelGraphLoss', on='tokens')))
