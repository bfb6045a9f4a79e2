from collections.abc import Sequence
from typing import Any

from mmpretrain.models.backbones import ResNet_CIFAR
from mmpretrain.models.backbones.resnet import BasicBlock
from mmpretrain.registry import MODELS


@MODELS.register_module()
class CRDResNet(ResNet_CIFAR):
    """ResNet with three stages for images of 32x32 pixels, as in the benchmark of CRD (arXiv:1910.10699).

    ``depth=32`` with the default widths is its ResNet-32x4, ``depth=8`` its ResNet-8x4; ResNet-20, -56 and -110 have
    ``stem_channels=16, base_channels=16``. The stages return maps of 32x32, 16x16 and 8x8.

    Args:
        depth: Number of layers, 6n + 2 for n residual blocks per stage: 8, 14, 20, 32, 44, 56 or 110.
        stem_channels: Channels of the first convolution. Default: 32.
        base_channels: Channels of the first stage; each further stage has twice as many. Default: 64.
        num_stages: Number of stages. Default: 3.
        strides: Stride of each stage. Default: (1, 2, 2).
        dilations: Dilation of each stage. Default: (1, 1, 1).
        out_indices: Stages whose maps are returned, counted from 0. Default: (2,).
        zero_init_residual: Whether each residual block starts as the identity; in the benchmark it does not. Default: False.
        kwargs: Settings of mmpretrain's ``ResNet_CIFAR``.
    """

    arch_settings = {depth: (BasicBlock, ((depth - 2) // 6,) * 3) for depth in (8, 14, 20, 32, 44, 56, 110)}

    def __init__(
        self,
        depth: int,
        stem_channels: int = 32,
        base_channels: int = 64,
        num_stages: int = 3,
        strides: Sequence[int] = (1, 2, 2),
        dilations: Sequence[int] = (1, 1, 1),
        out_indices: Sequence[int] = (2,),
        zero_init_residual: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            depth,
            stem_channels=stem_channels,
            base_channels=base_channels,
            num_stages=num_stages,
            strides=strides,
            dilations=dilations,
            out_indices=out_indices,
            zero_init_residual=zero_init_residual,
            **kwargs,
        )
