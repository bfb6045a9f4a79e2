# FitNet (arXiv:1412.6550): logits and features (Table VII).
_base_ = './deit-s_mae-b.py'
model = dict(losses=dict(loss_rd=None, loss_ra=None))
