# RRD (arXiv:2407.12073) alone: relations to a queue of 16,384 teacher embeddings.
_base_ = './shufflenetv2_resnet32x4_rrd-kd.py'
model = dict(losses=dict(loss_kd=None))
