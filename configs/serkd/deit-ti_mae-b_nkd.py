# NKD (arXiv:2303.13005): cross-entropy of the label's probability, and of the other classes after their normalization.
_base_ = './deit-ti_mae-b_kd.py'
model = dict(losses=dict(loss_kd=None, loss_nkd=dict(type='NKDLoss', on='logits', gamma=1.5, tau=1.0)))
