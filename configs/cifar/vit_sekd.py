# SEKD: logits, and graphs of the channels at three depths.
_base_ = './vit_kd.py'

depths = ('depth1', 'depth2', 'depth3')
patches = dict(tokenizer=dict(type='PatchTokenizer'), merger=dict(type='IdentityMerger'))
model = dict(
    student=dict(taps=dict(depth1='backbone.layers[0]', depth2='backbone.layers[1]', depth3='backbone.layers[-1]')),
    teacher=dict(taps=dict(depth1='backbone.layers[0]', depth2='backbone.layers[2]', depth3='backbone.layers[-1]')),
    views={f'tokens_{depth}': dict(tap=depth, **patches) for depth in depths},
    losses={f'loss_sekd_{d}': dict(type='ChannelGraphLoss', on=f'tokens_{d}', loss_weight=1.0 / 3) for d in depths},
)
