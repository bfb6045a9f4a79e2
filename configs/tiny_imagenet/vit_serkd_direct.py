# SeRKD without merging: relations between all 8x8 tokens.
_base_ = './vit_serkd.py'
model = dict(views=dict(superpixels=dict(merger=dict(_delete_=True, type='AvgPoolMerger', grid=8))))
