# RKD (arXiv:1904.05068): logits, and relations between the images of a batch, with the weights of the RKD paper.
_base_ = './vit_kd.py'
model = dict(
    views=dict(images=dict(tap='patches', tokenizer=dict(type='PatchTokenizer'), merger=dict(type='AvgPoolMerger', grid=1))),
    losses=dict(
        loss_rkd_d=dict(type='InstanceDistanceLoss', on='images', loss_weight=25.0),
        loss_rkd_a=dict(type='InstanceAngleLoss', on='images', loss_weight=50.0),
    ),
)
