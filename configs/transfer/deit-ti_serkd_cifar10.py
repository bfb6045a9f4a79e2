# Table IV: SeRKD-Ti on CIFAR-10.
_base_ = ['./_base_/deit-ti_serkd.py', '../_base_/datasets/cifar10_224.py']
