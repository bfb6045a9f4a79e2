# SeRKD with a larger teacher: EfficientNet-Lite2 with ImageNet-1k weights.
_base_ = './cnn_serkd.py'
model = dict(teacher=dict(model='timm:tf_efficientnet_lite2', checkpoint='checkpoints/efficientnet-lite2.pth'))
