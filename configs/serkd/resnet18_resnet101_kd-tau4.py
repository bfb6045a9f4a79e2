# KD (arXiv:1503.02531) at tau 4, as DIST's authors run it: their 71.09 for this pair is the number of Table II.
_base_ = './resnet18_resnet101_kd.py'
model = dict(losses=dict(loss_kd=dict(tau=4.0)))
