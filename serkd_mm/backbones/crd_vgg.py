from typing import Any

from mmpretrain.models.backbones import VGG
from mmpretrain.registry import MODELS
from torch import nn


@MODELS.register_module()
class CRDVGG(VGG):
    """VGG with batch norm and without its large linear layers, as in the benchmark of CRD (arXiv:1910.10699).

    For images of 32x32 pixels only the first three of five stages end with max pooling, so the last map is 4x4; a
    ``GlobalAveragePooling`` neck averages it. For images of 64x64 pixels the benchmark has ``num_pools=4``.

    Args:
        depth: Number of layers of the original VGG, 8, 11, 13, 16 or 19; 8 has one convolution per stage.
        num_pools: Number of stages, from the first, that end with max pooling, 0 to 4. Default: 3.
        norm_cfg: Norm after each convolution. Default: dict(type='BN').
        kwargs: Settings of mmpretrain's ``VGG``.

    Raises:
        ValueError: ``num_pools`` is not from 0 to 4.
    """

    arch_settings = {8: (1, 1, 1, 1, 1), **VGG.arch_settings}

    def __init__(self, depth: int, num_pools: int = 3, norm_cfg: dict | None = None, **kwargs: Any) -> None:
        if num_pools not in range(5):
            raise ValueError(f'num_pools must be from 0 to 4, but got {num_pools!r}')
        super().__init__(depth, norm_cfg=norm_cfg or {'type': 'BN'}, with_last_pool=False, **kwargs)
        for _, end in self.range_sub_modules[num_pools:-1]:
            self.features[end - 1] = nn.Identity()
