# SeRKD without L_F and without merging.
_base_ = './vit_serkd_direct.py'
model = dict(losses=dict(loss_feat=None))
