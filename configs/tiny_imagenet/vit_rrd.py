# RRD (arXiv:2407.12073): logits at tau 4, and relations to a queue of pooled teacher embeddings, half as many as
# training images.
_base_ = './vit_kd.py'
images = dict(tap='last', tokenizer=dict(type='GridTokenizer'), merger=dict(type='AvgPoolMerger', grid=1))
model = dict(
    student=dict(taps=dict(last='backbone.layers[-1]')),
    teacher=dict(taps=dict(last='model.bn2')),
    views=dict(images=images),
    losses=dict(loss_kd=dict(tau=4.0), loss_rrd=dict(type='RRDLoss', on='images', queue_size=2500)),
)
