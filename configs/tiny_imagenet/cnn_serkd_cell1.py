# SeRKD with cells of one token: 8x8 superpixels.
_base_ = './cnn_serkd.py'
model = dict(views=dict(superpixels=dict(merger=dict(cell=1))))
