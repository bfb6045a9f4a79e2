"""Networks for images of 32x32 pixels that mmpretrain does not have, registered beside its own.

They are those of the benchmark of CRD (arXiv:1910.10699, code HobbitLong/RepDistiller, BSD-2).
"""

from .crd_resnet import CRDResNet
from .crd_shufflenet_v2 import CRDShuffleNetV2
from .crd_vgg import CRDVGG
from .crd_wide_resnet import CRDWideResNet

__all__ = ['CRDVGG', 'CRDResNet', 'CRDShuffleNetV2', 'CRDWideResNet']
