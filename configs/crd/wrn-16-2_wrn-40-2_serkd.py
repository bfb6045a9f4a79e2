# SeRKD (arXiv:2503.21269): WRN-40-2 teaches WRN-16-2.
_base_ = './_base_/pair.py'
model = dict(
    student=dict(model='configs/crd/wrn-16-2.py'),
    teacher=dict(model='configs/crd/wrn-40-2.py', checkpoint='checkpoints/crd/wrn-40-2.pth'),
)
