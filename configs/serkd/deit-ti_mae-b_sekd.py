# SEKD (arXiv 2405.08547): logits, and graphs of the channels after 4, 8 and 12 blocks.
_base_ = './deit-ti_mae-b_kd.py'
blocks = dict(block4='backbone.layers[3]', block8='backbone.layers[7]', block12='backbone.layers[11]')
patches = dict(tokenizer=dict(type='PatchTokenizer'), merger=dict(type='IdentityMerger'))
model = dict(
    student=dict(taps=blocks),
    teacher=dict(taps=blocks),
    views={f'tokens_{block}': dict(tap=block, **patches) for block in blocks},
    losses={f'loss_sekd_{b}': dict(type='ChannelGraphLoss', on=f'tokens_{b}', loss_weight=1.0 / 3) for b in blocks},
)
