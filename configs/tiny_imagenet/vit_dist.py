# DIST (arXiv:2205.10536) with its settings for ImageNet: correlations of the predictions within and between images.
_base_ = './vit_kd.py'
model = dict(losses=dict(loss_kd=None, loss_dist=dict(type='DISTLoss', on='logits', loss_weight=2.0)))
