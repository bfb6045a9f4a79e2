# SEKD: logits, and graphs of the channels at three stages.
_base_ = './cnn_kd.py'
model = dict(
    losses={
        f'loss_sekd_{stage}': dict(type='ChannelGraphLoss', on=f'tokens_{stage}', loss_weight=1.0 / 3)
        for stage in ('stage1', 'stage2', 'stage3')
    }
)
