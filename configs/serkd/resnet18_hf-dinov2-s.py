# A teacher of Hugging Face by the name of its repository, or by a folder: DINOv2 ViT-S (arXiv:2304.07193) with classes.
_base_ = './_base_/any_pair.py'
teacher = dict(model='hf:facebook/dinov2-small-imagenet1k-1-layer', checkpoint=True)
model = dict(student=dict(model='resnet18_8xb32_in1k'), teacher=teacher)
