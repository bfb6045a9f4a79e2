# SeRKD with average pooling instead of superpixels.
_base_ = './cnn-lite2_serkd.py'
model = dict(views=dict(superpixels=dict(merger=dict(_delete_=True, type='AvgPoolMerger', cell=2))))
