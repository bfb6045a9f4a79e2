# The teacher: EfficientNet-Lite0 with ImageNet-1k weights. The data set has 100 of its 1,000 classes. It sees the images
# at the size at which it recognizes most of them.
teacher = dict(
    model='timm:tf_efficientnet_lite0',
    checkpoint='checkpoints/efficientnet-lite0.pth',
    classes='configs/tiny_imagenet/classes.txt',
    input_size=160,
)
