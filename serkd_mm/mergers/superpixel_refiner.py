import torch
from mmpretrain.registry import MODELS
from torch import nn

from ..lazy_layers import build_on_first_input
from ..ops.precision import at_least_float32


@MODELS.register_module()
class SuperpixelRefiner(nn.Module):
    """The tiny learnable network Phi that refines superpixels of CNNs (SeRKD, arXiv:2503.21269, section IV-A.2).

    The paper gives its purpose (a token reaches 3 x 3 superpixels only) but not its form. Choice: a depthwise 3 x 3
    convolution and a pointwise one over the superpixel grid, added to the superpixels. The pointwise one starts at zero, so
    Phi starts as the identity. The layers are built at the first call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_module('network', None)

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        """Refine a superpixel grid ``(B, C, h, w)``; the result has the same shape, in float32 or better."""
        grid = at_least_float32(grid)
        return grid + build_on_first_input(self, 'network', grid, (grid.shape[1],), _zero_initialized)(grid)


def _zero_initialized(channels: int) -> nn.Sequential:
    """A depthwise and a pointwise convolution whose output is 0 at first."""
    depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
    pointwise = nn.Conv2d(channels, channels, 1)
    nn.init.zeros_(pointwise.weight)
    nn.init.zeros_(pointwise.bias)
    return nn.Sequential(depthwise, pointwise)
