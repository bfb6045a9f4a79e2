# FitNet (arXiv:1412.6550): logits and features.
_base_ = './vit16_serkd.py'
model = dict(losses=dict(loss_rd=None, loss_ra=None))
