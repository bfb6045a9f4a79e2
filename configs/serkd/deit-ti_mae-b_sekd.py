# SEKD (arXiv:2405.08547): logits, and channel graphs after 4, 8 and 12 blocks.
_base_ = './deit-ti_mae-b_kd.py'
blocks = dict(block4='backbone.layers[3]', block8='backbone.layers[7]', block12='backbone.layers[11]')
model = dict(
    student=dict(taps=blocks),
    teacher=dict(taps=blocks),
    views=dict(
        depths=dict(taps=list(blocks), tokenizer=dict(type='PatchTokenizer'), merger=dict(type='IdentityMerger')),
    ),
    losses=dict(loss_sekd=dict(type='ChannelGraphLoss', on='depths')),
)
