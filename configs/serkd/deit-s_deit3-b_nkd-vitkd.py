# NKD + ViTKD (arXiv:2209.02432) as the authors run it: DeiT III-B teaches DeiT-S.
_base_ = './deit-ti_deit3-s_nkd-vitkd.py'
model = dict(
    student=dict(model=dict(backbone=dict(arch='deit-small'), head=dict(in_channels=384))),
    teacher=dict(model='deit3-base-p16_in21k-pre_3rdparty_in1k'),
)
