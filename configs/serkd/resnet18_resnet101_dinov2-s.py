# Two teachers: ResNet-101 teaches its logits; DINOv2 ViT-S (arXiv:2304.07193), which has no class head, its tokens and the
# relations between its superpixels.
_base_ = './_base_/any_pair.py'

model = dict(
    student=dict(model='resnet18_8xb32_in1k'),
    teacher=None,
    teachers=dict(
        resnet=dict(model='resnet101_8xb32_in1k', checkpoint=True),
        dino=dict(model='timm:vit_small_patch14_dinov2.lvd142m', checkpoint=True),
    ),
    views=dict(tokens=dict(teacher='dino'), superpixels=dict(teacher='dino')),
    losses=dict(loss_kd=dict(teacher='resnet')),
)
