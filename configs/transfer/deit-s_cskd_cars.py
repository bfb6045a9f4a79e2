# Table IV: CSKD-S on Stanford Cars.
_base_ = './deit-s_serkd_cars.py'
model = dict(backbone=dict(init_cfg=dict(checkpoint='work_dirs/deit-s_regnety-16gf_cskd/epoch_300.pth')))
