# Table VI: relations between all tokens; as in the paper, 32 images per GPU.
_base_ = '../deit-ti_mae-b.py'
model = dict(views=dict(superpixels=dict(merger=dict(_delete_=True, type='IdentityMerger'))))
train_dataloader = dict(batch_size=32)
