# FitNet (arXiv:1412.6550): logits and features (Tables V and VII; the baseline of Table VI).
_base_ = './deit-ti_mae-b.py'
model = dict(losses=dict(loss_rd=None, loss_ra=None))
