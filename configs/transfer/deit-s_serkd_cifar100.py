# Table IV: SeRKD-S on CIFAR-100.
_base_ = ['./_base_/deit-s_serkd.py', '../_base_/datasets/cifar100_224.py']
model = dict(head=dict(num_classes=100))
