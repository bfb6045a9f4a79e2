# KD (arXiv:1503.02531): logits only (Table VII).
_base_ = './deit-s_mae-b.py'
model = dict(losses=dict(loss_feat=None, loss_rd=None, loss_ra=None))
