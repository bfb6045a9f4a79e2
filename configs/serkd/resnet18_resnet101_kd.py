# KD (arXiv:1503.02531): logits only (Table II).
_base_ = './resnet18_resnet101.py'
model = dict(losses=dict(loss_feat=None, loss_rd=None, loss_ra=None))
