# KD (arXiv:1503.02531): logits only.
_base_ = './cnn_serkd.py'
model = dict(losses=dict(loss_feat=None, loss_rd=None, loss_ra=None))
