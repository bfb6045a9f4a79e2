# SEKD (arXiv:2405.08547): logits, and channel graphs at three depths.
_base_ = './vit_kd.py'
depths = ['depth1', 'depth2', 'depth3']
model = dict(
    student=dict(taps=dict(depth1='backbone.layers[0]', depth2='backbone.layers[1]', depth3='backbone.layers[-1]')),
    teacher=dict(taps=dict(depth1='model.blocks[1]', depth2='model.blocks[2]', depth3='model.blocks[4]')),
    views=dict(depths=dict(taps=depths, tokenizer=dict(type='GridTokenizer'), merger=dict(type='AvgPoolMerger', grid=8))),
    losses=dict(loss_sekd=dict(type='ChannelGraphLoss', on='depths')),
)
