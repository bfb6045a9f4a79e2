# Table VIII: cells of 1x1; as in the paper, 32 images per GPU.
_base_ = '../deit-s_mae-b.py'
model = dict(views=dict(superpixels=dict(merger=dict(cell=1))))
train_dataloader = dict(batch_size=32)
