# RRD (arXiv:2407.12073): logits, and relations to a queue of 16,384 teacher embeddings.
_base_ = './resnet18_resnet101_kd.py'
model = dict(losses=dict(loss_rrd=dict(type='RRDLoss', on='pooled')))
