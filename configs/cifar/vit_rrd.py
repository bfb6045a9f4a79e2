# RRD: logits, and relations to a queue of the teacher's embeddings, which holds half as many as there are images.
_base_ = './vit_kd.py'
model = dict(losses=dict(loss_rrd=dict(type='RRDLoss', on='tokens', queue_size=1000)))
