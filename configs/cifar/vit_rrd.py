# RRD (arXiv:2407.12073): logits, and relations to a queue of teacher embeddings, half as many as training images.
_base_ = './vit_kd.py'
model = dict(losses=dict(loss_rrd=dict(type='RRDLoss', on='tokens', queue_size=1000)))
