# Table IV: CSKD-Ti on CIFAR-10.
_base_ = './deit-ti_serkd_cifar10.py'
model = dict(backbone=dict(init_cfg=dict(checkpoint='work_dirs/deit-ti_regnety-16gf_cskd/epoch_300.pth')))
