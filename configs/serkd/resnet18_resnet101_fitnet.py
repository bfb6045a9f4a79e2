# FitNet (arXiv:1412.6550): logits and the features of three stages.
_base_ = './resnet18_resnet101.py'
model = dict(losses=dict(loss_rd=None, loss_ra=None))
