# RRD (arXiv:2407.12073): logits, and relations to a queue of teacher embeddings, half as many as training images.
_base_ = './cnn_kd.py'
model = dict(losses=dict(loss_rrd=dict(type='RRDLoss', on='pooled', queue_size=1000)))
