# Not in the paper: no gradient flows through the association Q, as in the code of STViT (arXiv:2211.11167).
_base_ = './deit-ti_mae-b.py'
model = dict(views=dict(superpixels=dict(merger=dict(detach_association=True))))
