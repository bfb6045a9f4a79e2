# SeRKD with a larger teacher: EfficientNet-Lite2 with ImageNet-1k weights. It computes in bfloat16:
# on a CPU with such instructions, that halves the time in which its outputs are stored.
_base_ = './cnn_serkd.py'
model = dict(
    teacher=dict(
        model='timm:tf_efficientnet_lite2',
        checkpoint='checkpoints/efficientnet-lite2.pth',
        autocast_dtype='bfloat16',
        channels_last=True,
    )
)
