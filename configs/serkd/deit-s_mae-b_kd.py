# KD [1]: logit distillation alone (Table VII).
_base_ = './deit-s_mae-b.py'
model = dict(losses=dict(loss_feat=None, loss_rd=None, loss_ra=None))
