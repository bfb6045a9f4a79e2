# SeRKD with cells of three by three tokens of the student: 3x3 superpixels.
_base_ = './vit_serkd.py'
model = dict(views=dict(superpixels=dict(merger=dict(grid=3))))
