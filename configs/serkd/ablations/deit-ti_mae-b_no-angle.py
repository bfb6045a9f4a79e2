# Table V, without L_RA.
_base_ = '../deit-ti_mae-b.py'
model = dict(losses=dict(loss_ra=None))
