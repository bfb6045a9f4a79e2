# RRD (arXiv:2407.12073) with the temperatures of the authors' command lines: the teacher's relations are sharper.
_base_ = './resnet18_resnet101_rrd.py'
model = dict(losses=dict(loss_rrd=dict(tau_student=0.1, tau_teacher=0.02)))
