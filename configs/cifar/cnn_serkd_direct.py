# SeRKD without merging: relations between the tokens themselves.
_base_ = './cnn_serkd.py'
merger = dict(_delete_=True, type='IdentityMerger')
model = dict(views={view: dict(merger=merger) for view in _base_.model.views if view.startswith('superpixels')})
