# CSKD-S (arXiv:2307.08500; Tables I and IV): CSKD-Ti with DeiT-S as the student.
_base_ = './deit-ti_regnety-16gf_cskd.py'
model = dict(student=dict(model=dict(backbone=dict(arch='deit-small'), head=dict(in_channels=384))))
