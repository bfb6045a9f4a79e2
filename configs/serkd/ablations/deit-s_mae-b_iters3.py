# Table IX: T = 3 iterations of superpixels.
_base_ = '../deit-s_mae-b.py'
model = dict(views=dict(superpixels=dict(merger=dict(num_iters=3))))
