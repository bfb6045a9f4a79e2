from typing import Any

import torch
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.registry import MODELS
from torch import nn


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each after a norm and a ReLU, and a shortcut.

    Where the width changes, the first norm and ReLU come before the shortcut too, which is a 1x1 convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the first convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute a map from a map ``(B, in_channels, H, W)``."""
        activated = self.relu(self.norm1(x))
        residual = self.conv2(self.relu(self.norm2(self.conv1(activated))))
        return residual + (x if self.shortcut is None else self.shortcut(activated))


@MODELS.register_module()
class CRDWideResNet(BaseBackbone):
    """Wide residual network (WRN, Zagoruyko and Komodakis, arXiv:1605.07146) as in the benchmark of CRD (arXiv:1910.10699).

    WRN-40-2 is ``depth=40, widen_factor=2``. The stages ``layer1``, ``layer2`` and ``layer3`` return maps of 32x32, 16x16
    and 8x8 for images of 32x32 pixels, before a norm and a ReLU; the backbone returns the last map after them.

    Args:
        depth: Number of layers, 6n + 4 for n residual blocks per stage.
        widen_factor: Factor of the widths 16, 32 and 64 of the stages. Default: 1.
        frozen_stages: The first convolution and this many stages are not trained, and their norms do not change; with 3, the
            whole backbone; -1, nothing. Default: -1.
        norm_eval: Whether no norm changes its running statistics. Default: False.
        init_cfg: Initialization, as for mmengine's ``BaseModule``. Default: None, that of mmpretrain's ResNet.

    Raises:
        ValueError: ``depth`` is not 6n + 4, or ``frozen_stages`` is not from -1 to 3.
    """

    def __init__(
        self, depth: int, widen_factor: int = 1, frozen_stages: int = -1, norm_eval: bool = False, init_cfg: Any = None
    ) -> None:
        kaiming = [{'type': 'Kaiming', 'layer': ['Conv2d']}, {'type': 'Constant', 'val': 1, 'layer': ['_BatchNorm']}]
        super().__init__(init_cfg or kaiming)
        num_blocks, rest = divmod(depth - 4, 6)
        if num_blocks < 1 or rest:
            raise ValueError(f'depth must be 6n + 4, such as 16 or 40, but got {depth!r}')
        if frozen_stages not in range(-1, 4):
            raise ValueError(f'frozen_stages must be from -1 to 3, but got {frozen_stages!r}')
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        widths = [16, *(width * widen_factor for width in (16, 32, 64))]
        for stage in (1, 2, 3):
            in_channels, out_channels = widths[stage - 1 : stage + 1]
            first = PreActivationBlock(in_channels, out_channels, stride=1 if stage == 1 else 2)
            others = [PreActivationBlock(out_channels, out_channels, stride=1) for _ in range(num_blocks - 1)]
            self.add_module(f'layer{stage}', nn.Sequential(first, *others))
        self.norm = nn.BatchNorm2d(widths[-1])
        self.relu = nn.ReLU(inplace=True)
        self._freeze_stages()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        """Return the last map ``(B, 64 * widen_factor, H / 4, W / 4)`` of images ``(B, 3, H, W)``, in a tuple."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return (self.relu(self.norm(x)),)

    def train(self, mode: bool = True) -> 'CRDWideResNet':
        """Switch to training or evaluation; what is frozen stays in evaluation."""
        super().train(mode)
        self._freeze_stages()
        for module in self.modules():
            if self.norm_eval and isinstance(module, _BatchNorm):
                module.eval()
        return self

    def _freeze_stages(self) -> None:
        """Freeze the first ``frozen_stages`` stages and what comes before them; with all stages, the last norm too."""
        if self.frozen_stages < 0:
            return
        stages = [getattr(self, f'layer{stage}') for stage in range(1, self.frozen_stages + 1)]
        for module in [self.conv1, *stages, *([self.norm] if self.frozen_stages == 3 else [])]:
            module.eval().requires_grad_(False)
