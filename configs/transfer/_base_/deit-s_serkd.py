# The same as deit-ti_serkd.py with DeiT-S.
_base_ = './deit-ti_serkd.py'
model = dict(
    backbone=dict(arch='deit-small', init_cfg=dict(checkpoint='work_dirs/deit-s_mae-b/epoch_300.pth')),
    head=dict(in_channels=384),
)
