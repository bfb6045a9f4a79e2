# SeRKD (arXiv:2503.21269): VGG-13 teaches VGG-8, by the last map of each of the first three stages, before its pooling.
_base_ = './_base_/pair.py'
model = dict(
    student=dict(
        model='configs/crd/vgg8.py',
        taps=dict(stage1='backbone.features[0]', stage2='backbone.features[2]', stage3='backbone.features[4]'),
    ),
    teacher=dict(
        model='configs/crd/vgg13.py',
        checkpoint='checkpoints/crd/vgg13.pth',
        taps=dict(stage1='backbone.features[1]', stage2='backbone.features[4]', stage3='backbone.features[7]'),
    ),
)
