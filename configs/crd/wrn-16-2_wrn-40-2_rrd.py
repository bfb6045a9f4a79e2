# RRD (arXiv:2407.12073) alone: relations to a queue of 16,384 teacher embeddings.
_base_ = './wrn-16-2_wrn-40-2_rrd-kd.py'
model = dict(losses=dict(loss_kd=None))
