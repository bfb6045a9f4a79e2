# RKD (arXiv:1904.05068): logits, and relations between the images of a batch, with the weights of the RKD paper.
_base_ = './cnn_kd.py'
model = dict(
    losses=dict(
        loss_rkd_d=dict(type='InstanceDistanceLoss', on='pooled', loss_weight=25.0),
        loss_rkd_a=dict(type='InstanceAngleLoss', on='pooled', loss_weight=50.0),
    )
)
