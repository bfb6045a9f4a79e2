# SEKD (arXiv:2405.08547): logits, and channel graphs at three depths.
_base_ = './vit_kd.py'
model = dict(
    student=dict(taps=dict(depth1='backbone.layers[0]', depth2='backbone.layers[1]', depth3='backbone.layers[-1]')),
    teacher=dict(taps=dict(depth1='backbone.layers[0]', depth2='backbone.layers[2]', depth3='backbone.layers[-1]')),
    views=dict(
        depths=dict(
            taps=['depth1', 'depth2', 'depth3'], tokenizer=dict(type='PatchTokenizer'), merger=dict(type='IdentityMerger')
        ),
    ),
    losses=dict(loss_sekd=dict(type='ChannelGraphLoss', on='depths')),
)
