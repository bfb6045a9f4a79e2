# SeRKD without L_RA: distances alone.
_base_ = './vit_serkd.py'
model = dict(losses=dict(loss_ra=None))
