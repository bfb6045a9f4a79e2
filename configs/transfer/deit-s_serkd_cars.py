# Table IV: SeRKD-S on Stanford Cars.
_base_ = ['./_base_/deit-s_serkd.py', '../_base_/datasets/stanford_cars_224.py']
model = dict(head=dict(num_classes=196))
