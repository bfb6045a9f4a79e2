# DIST (arXiv:2205.10536) with its authors' settings for CIFAR-100: temperature 4, weight 2.
_base_ = './wrn-16-2_wrn-40-2_kd.py'
loss_dist = dict(type='DISTLoss', on='logits', beta=1.0, gamma=1.0, tau=4.0, loss_weight=2.0)
model = dict(losses=dict(loss_cls=dict(loss_weight=1.0), loss_kd=None, loss_dist=loss_dist))
