# Table IV: CSKD-S on CIFAR-100.
_base_ = './deit-s_serkd_cifar100.py'
model = dict(backbone=dict(init_cfg=dict(checkpoint='work_dirs/deit-s_regnety-16gf_cskd/epoch_300.pth')))
