# RRD (arXiv:2407.12073): logits at tau 4, and relations to a queue of 16,384 teacher embeddings. The student's are sharper.
_base_ = './resnet18_resnet101_kd.py'
rrd = dict(type='RRDLoss', on='pooled', tau_student=0.02, tau_teacher=0.1)
model = dict(losses=dict(loss_kd=dict(tau=4.0), loss_rrd=rrd))
