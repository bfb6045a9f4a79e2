# Table IV: SeRKD-S on CIFAR-10.
_base_ = ['./_base_/deit-s_serkd.py', '../_base_/datasets/cifar10_224.py']
