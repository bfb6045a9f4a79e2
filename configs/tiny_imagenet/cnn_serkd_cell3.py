# SeRKD with cells of three by three tokens: 3x3 superpixels.
_base_ = './cnn_serkd.py'
model = dict(views=dict(superpixels=dict(merger=dict(cell=3))))
