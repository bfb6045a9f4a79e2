# Not of the paper: no gradient flows through the association Q, as in STViT's code (arXiv:2211.11167), the superpixels' source.
_base_ = './deit-ti_mae-b.py'
model = dict(views=dict(superpixels=dict(merger=dict(detach_association=True))))
