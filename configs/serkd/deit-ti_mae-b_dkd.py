# DKD (arXiv:2203.08679): divergence of the label's probability, and of the other classes, weighted apart.
_base_ = './deit-ti_mae-b_kd.py'
model = dict(losses=dict(loss_kd=None, loss_dkd=dict(type='DKDLoss', on='logits', alpha=1.0, beta=0.5, tau=1.0)))
