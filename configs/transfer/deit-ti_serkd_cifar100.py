# Table IV: SeRKD-Ti on CIFAR-100.
_base_ = ['./_base_/deit-ti_serkd.py', '../_base_/datasets/cifar100_224.py']
model = dict(head=dict(num_classes=100))
