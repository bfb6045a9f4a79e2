# SeRKD (arXiv:2503.21269): ResNet-32x4 teaches ShuffleNetV2, by the two stages of equal size: the
# student's first, 16x16, and its second, 8x8. Its third has fewer positions than the 8x8 tokens of the other pairs.
_base_ = './_base_/pair.py'
stages = ['stage2', 'stage3']
model = dict(
    student=dict(model='configs/crd/shufflenetv2.py', taps=dict(stage2='backbone.layers[0]', stage3='backbone.layers[1]')),
    teacher=dict(model='configs/crd/resnet32x4.py', checkpoint='checkpoints/crd/resnet32x4.pth'),
    views=dict(tokens=dict(taps=stages), superpixels=dict(taps=stages)),
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
