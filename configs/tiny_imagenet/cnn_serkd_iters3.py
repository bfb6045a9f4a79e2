# SeRKD with T = 3 iterations of the clustering.
_base_ = './cnn_serkd.py'
model = dict(views=dict(superpixels=dict(merger=dict(num_iters=3))))
