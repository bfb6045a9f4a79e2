# The same student on the same few images, with logit distillation alone.
_base_ = './student_serkd.py'
model = dict(losses=dict(loss_feat=None, loss_rd=None, loss_ra=None))
