# A small ViT with 16x16 tokens, trained from scratch: both heads learn from labels only.
_base_ = './vit_labels.py'
model = dict(backbone=dict(patch_size=4))
