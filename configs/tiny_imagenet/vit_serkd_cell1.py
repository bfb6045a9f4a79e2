# SeRKD with cells of one token of the student: 8x8 superpixels.
_base_ = './vit_serkd.py'
model = dict(views=dict(superpixels=dict(merger=dict(grid=8))))
