# SeRKD with the maxima of cells in the place of superpixels.
_base_ = './cnn_serkd.py'
merger = dict(_delete_=True, type='MaxPoolMerger', cell=2)
model = dict(views={view: dict(merger=merger) for view in _base_.model.views if view.startswith('superpixels')})
