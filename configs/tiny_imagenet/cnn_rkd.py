# RKD (arXiv:1904.05068): logits, and relations between the pooled last features of the images of a batch, with the weights
# of the RKD paper.
_base_ = './cnn_kd.py'
images = dict(tap='last', tokenizer=dict(type='GridTokenizer'), merger=dict(type='AvgPoolMerger', grid=1))
model = dict(
    student=dict(taps=dict(last='backbone.layer4')),
    teacher=dict(taps=dict(last='model.bn2')),
    views=dict(images=images),
    losses=dict(
        loss_rkd_d=dict(type='InstanceDistanceLoss', on='images', loss_weight=25.0),
        loss_rkd_a=dict(type='InstanceAngleLoss', on='images', loss_weight=50.0),
    ),
)
