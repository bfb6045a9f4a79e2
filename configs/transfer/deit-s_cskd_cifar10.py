# Table IV: CSKD-S on CIFAR-10.
_base_ = './deit-s_serkd_cifar10.py'
model = dict(backbone=dict(init_cfg=dict(checkpoint='work_dirs/deit-s_regnety-16gf_cskd/epoch_300.pth')))
