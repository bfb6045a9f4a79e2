# The teacher: EfficientNet-Lite0 with ImageNet-1k weights. The data set has 100 of its 1,000 classes. It sees the images
# at the size at which it recognizes most of them.
classes = [
    61, 75, 76, 99, 105, 107, 109, 113, 114, 115, 128, 145, 146, 151, 187, 207, 208, 267, 301, 308, 315, 329, 341,
    347, 353, 365, 367, 372, 387, 398, 424, 425, 430, 435, 436, 437, 440, 445, 447, 457, 466, 467, 471, 474, 480, 485,
    488, 508, 517, 542, 543, 557, 567, 570, 576, 605, 614, 621, 625, 635, 645, 655, 683, 687, 704, 716, 731, 735, 761,
    765, 774, 779, 781, 786, 815, 817, 821, 826, 837, 839, 842, 849, 850, 862, 866, 873, 874, 890, 900, 923, 924, 932,
    935, 945, 964, 967, 972, 973, 975, 988,
]  # fmt: skip
teacher = dict(
    model='timm:tf_efficientnet_lite0',
    checkpoint='work_dirs/tiny_imagenet/weights/tf_efficientnet_lite0.pth',
    classes=classes,
    input_size=160,
)
