# RRD with its temperatures as in the authors' command lines: student 0.1, teacher 0.02; RRDLoss has the abstract's reading.
_base_ = './vit_rrd.py'
model = dict(losses=dict(loss_rrd=dict(tau_student=0.1, tau_teacher=0.02)))
