# Table IX: T = 2 iterations of superpixels.
_base_ = '../deit-s_mae-b.py'
model = dict(views=dict(superpixels=dict(merger=dict(num_iters=2))))
