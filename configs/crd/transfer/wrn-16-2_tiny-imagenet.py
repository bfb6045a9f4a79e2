# The transfer of RRD (arXiv:2407.12073) to Tiny ImageNet: a linear classifier on the frozen student, images of 32x32.
_base_ = './_base_/wrn-16-2_frozen.py'
model = dict(head=dict(num_classes=200))
data_preprocessor = dict(num_classes=200)
train_dataloader = dict(dataset=dict(data_root='data/tiny-imagenet-200'))
val_dataloader = dict(dataset=dict(data_root='data/tiny-imagenet-200'))
test_dataloader = val_dataloader
