# DIST (arXiv:2205.10536): correlations of the predicted probabilities, over classes and over the images of a batch.
_base_ = './resnet18_resnet101_kd.py'
model = dict(losses=dict(loss_kd=None, loss_dist=dict(type='DISTLoss', on='logits', beta=1.0, gamma=1.0, tau=1.0)))
