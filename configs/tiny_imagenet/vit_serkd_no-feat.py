# SeRKD without L_F (the paper's Table V, double dagger).
_base_ = './vit_serkd.py'
model = dict(losses=dict(loss_feat=None))
