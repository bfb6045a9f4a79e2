# RRD (arXiv:2407.12073) alone: relations to a queue of 16,384 teacher embeddings.
_base_ = './vgg8_vgg13_rrd-kd.py'
model = dict(losses=dict(loss_kd=None))
