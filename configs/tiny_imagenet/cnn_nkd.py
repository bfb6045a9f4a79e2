# NKD (arXiv:2303.13005) with its settings for ImageNet: the target class, and the normalized other classes.
_base_ = './cnn_kd.py'
model = dict(losses=dict(loss_kd=None, loss_nkd=dict(type='NKDLoss', on='logits', gamma=1.5, tau=1.0)))
