# SEKD (arXiv 2405.08547): logits, and graphs of the channels of three stages.
_base_ = './resnet18_resnet101_kd.py'
model = dict(
    losses={
        f'loss_sekd_{stage}': dict(type='ChannelGraphLoss', on=f'tokens_{stage}', loss_weight=1.0 / 3)
        for stage in ('stage1', 'stage2', 'stage3')
    }
)
