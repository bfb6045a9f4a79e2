# RKD (arXiv:1904.05068; Table II): logits, and relations between the images of a batch, weighted as in the RKD paper.
_base_ = './resnet18_resnet101_kd.py'
model = dict(
    losses=dict(
        loss_rkd_d=dict(type='InstanceDistanceLoss', on='pooled', loss_weight=25.0),
        loss_rkd_a=dict(type='InstanceAngleLoss', on='pooled', loss_weight=50.0),
    )
)
