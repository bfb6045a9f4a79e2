from typing import Any

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmpretrain.models.backbones import ShuffleNetV2
from mmpretrain.registry import MODELS
from torch import nn


@MODELS.register_module()
class CRDShuffleNetV2(ShuffleNetV2):
    """ShuffleNetV2 (arXiv:1807.11164) for images of 32x32 pixels, as in the benchmark of CRD (arXiv:1910.10699).

    The stem is a 1x1 convolution without stride, and no max pooling follows: the stages ``layers[0]`` to ``layers[2]``
    return maps of 16x16, 8x8 and 4x4. Weights start as those of torch's layers, as in the benchmark;
    mmpretrain's ShuffleNetV2 starts its convolutions at other scales.

    Args:
        kwargs: Settings of mmpretrain's ``ShuffleNetV2``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        settings = {'conv_cfg': self.conv_cfg, 'norm_cfg': self.norm_cfg, 'act_cfg': self.act_cfg}
        self.conv1 = ConvModule(3, self.conv1.out_channels, 1, **settings)
        self.maxpool = nn.Identity()

    def init_weights(self) -> None:
        """Initialize by ``init_cfg``; without one, keep what torch's layers start with."""
        if self.init_cfg:
            BaseModule.init_weights(self)
