# SeRKD without L_RA: distances alone.
_base_ = './cnn_serkd.py'
model = dict(losses=dict(loss_ra=None))
