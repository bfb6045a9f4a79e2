# Table IV: SeRKD-Ti on Stanford Cars.
_base_ = ['./_base_/deit-ti_serkd.py', '../_base_/datasets/stanford_cars_224.py']
model = dict(head=dict(num_classes=196))
