# SeRKD without merging: relations between the tokens themselves.
_base_ = './cnn_serkd.py'
model = dict(views=dict(superpixels=dict(merger=dict(_delete_=True, type='IdentityMerger'))))
