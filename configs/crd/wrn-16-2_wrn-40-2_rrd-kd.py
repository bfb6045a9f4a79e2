# RRD (arXiv:2407.12073) with KD at temperature 4, each of weight 1.
_base_ = './wrn-16-2_wrn-40-2_kd.py'
model = dict(
    losses=dict(loss_cls=dict(loss_weight=1.0), loss_kd=dict(loss_weight=1.0), loss_rrd=dict(type='RRDLoss', on='pooled'))
)
