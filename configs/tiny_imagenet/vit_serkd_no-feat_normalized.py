# Not the paper's: superpixels of normalized tokens, without L_F.
_base_ = './vit_serkd_normalized.py'
model = dict(losses=dict(loss_feat=None))
