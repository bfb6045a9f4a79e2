# The teacher of the CNN pair, trained on the labels of all training images.
_base_ = './cnn_labels.py'
model = dict(backbone=dict(base_channels=16, stem_channels=16), head=dict(in_channels=128))
train_dataloader = dict(dataset=dict(indices=None))
