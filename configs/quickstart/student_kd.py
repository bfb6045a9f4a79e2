# The same student on the same few images, with logit distillation only (KD, arXiv:1503.02531).
_base_ = './student_serkd.py'
model = dict(losses=dict(loss_feat=None, loss_rd=None, loss_ra=None))
