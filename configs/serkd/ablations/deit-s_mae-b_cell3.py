# Table VIII: cells of 3x3.
_base_ = '../deit-s_mae-b.py'
model = dict(views=dict(superpixels=dict(merger=dict(cell=3))))
