# SeRKD (arXiv:2503.21269): ResNet-32x4 teaches ResNet-8x4.
_base_ = './_base_/pair.py'
model = dict(
    student=dict(model='configs/crd/resnet8x4.py'),
    teacher=dict(model='configs/crd/resnet32x4.py', checkpoint='checkpoints/crd/resnet32x4.pth'),
)
