# Table VI: average pooling of each cell.
_base_ = '../deit-ti_mae-b.py'
model = dict(views=dict(superpixels=dict(merger=dict(_delete_=True, type='AvgPoolMerger', cell=2))))
