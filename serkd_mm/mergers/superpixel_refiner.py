import torch
from mmpretrain.registry import MODELS
from torch import nn

from ..ops.precision import at_least_float32


@MODELS.register_module()
class SuperpixelRefiner(nn.Module):
    """The tiny learnable network Phi that refines superpixel tokens of CNNs (paper, section IV-A.2).

    The paper gives its purpose (associations reach 3 x 3 superpixels only) and not its form. Here: a depthwise 3 x 3
    convolution over the grid of superpixels and a pointwise one, added to the tokens; the pointwise one starts at zero, so
    that Phi starts as the identity. Channels are found at the first call, which the distiller makes while it is built.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_module('network', None)

    def forward(self, tokens: torch.Tensor, grid_shape: tuple[int, int]) -> torch.Tensor:
        """Refined tokens ``(B, M, C)`` of tokens ``(B, M, C)`` that lie on a grid of ``grid_shape``, row by row."""
        tokens = at_least_float32(tokens)
        if self.network is None:
            self.network = self._identity(tokens.shape[2]).to(tokens)
        return tokens + self.network(tokens.mT.unflatten(2, grid_shape)).flatten(2).mT

    @staticmethod
    def _identity(channels: int) -> nn.Sequential:
        depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        pointwise = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(pointwise.weight)
        nn.init.zeros_(pointwise.bias)
        return nn.Sequential(depthwise, pointwise)
