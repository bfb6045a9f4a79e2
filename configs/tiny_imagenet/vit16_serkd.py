# SeRKD (arXiv:2503.21269): relations between 8x8 superpixels of 16x16 tokens. The teacher sees the images at 256x256, where
# its map with a stride of 16 has 16x16 positions, too, and computes in bfloat16, which takes half of the time on a CPU with
# such instructions.
_base_ = './vit_serkd.py'
whole = dict(tap='patches', tokenizer=dict(type='GridTokenizer'))
model = dict(
    student=dict(model=dict(backbone=dict(patch_size=4))),
    teacher=dict(input_size=256, autocast_dtype='bfloat16', channels_last=True),
    views=dict(
        _delete_=True,
        tokens=dict(**whole, merger=dict(type='IdentityMerger')),
        superpixels=dict(**whole, merger=dict(type='SuperpixelMerger', cell=2, num_iters=1)),
    ),
)
