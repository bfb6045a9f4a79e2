# Without labels: ResNet-18 learns the features of DINOv2 ViT-S (arXiv:2304.07193) on a folder of pictures.
# The student's last map is 7x7 at 224 pixels: each position is a superpixel; the teacher's 16x16 tokens are merged into 7x7.
_base_ = [
    '../_base_/models/any_pair.py',
    '../_base_/datasets/pictures_224.py',
    '../_base_/schedules/adamw_bs1024_300e.py',
    '../_base_/runtime.py',
]
teacher = dict(model='timm:vit_small_patch14_dinov2', checkpoint=True)
model = dict(student=dict(model='timm:resnet18'), teacher=teacher, losses=dict(loss_cls=None, loss_kd=None))
