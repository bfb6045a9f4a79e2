# SeRKD without the gradient through the association Q.
_base_ = './vit_serkd.py'
model = dict(views=dict(superpixels=dict(merger=dict(detach_association=True))))
