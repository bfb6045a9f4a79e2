# SeRKD with max pooling instead of superpixels.
_base_ = './vit_serkd.py'
model = dict(views=dict(superpixels=dict(merger=dict(_delete_=True, type='MaxPoolMerger', grid=4))))
