# RRD: logits, and relations to a queue of the teacher's embeddings, which holds half as many as there are images.
_base_ = './cnn_kd.py'
model = dict(losses=dict(loss_rrd=dict(type='RRDLoss', on='pooled', queue_size=1000)))
