# SeRKD-S (arXiv:2503.21269, section V-A): SeRKD-Ti with DeiT-S as the student.
_base_ = './deit-ti_mae-b.py'
model = dict(student=dict(model=dict(backbone=dict(arch='deit-small'), head=dict(in_channels=384))))
