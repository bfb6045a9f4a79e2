# The transfer of RRD (arXiv:2407.12073) to STL-10: a linear classifier on the frozen student, images resized to 32x32.
_base_ = './_base_/wrn-16-2_frozen.py'
data_preprocessor = dict(num_classes=10)
train_dataloader = dict(dataset=dict(data_root='data/stl10'))
val_dataloader = dict(dataset=dict(data_root='data/stl10'))
test_dataloader = val_dataloader
