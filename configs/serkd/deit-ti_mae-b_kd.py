# KD (arXiv:1503.02531): logits only (Tables V and VII).
_base_ = './deit-ti_mae-b.py'
model = dict(losses=dict(loss_feat=None, loss_rd=None, loss_ra=None))
