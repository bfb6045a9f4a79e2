# Table V, without L_F.
_base_ = '../deit-ti_mae-b.py'
model = dict(losses=dict(loss_feat=None))
