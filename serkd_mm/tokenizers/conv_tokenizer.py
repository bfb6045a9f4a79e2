import torch
from mmpretrain.registry import MODELS
from torch import nn

from ..ops.cells import whole_cells
from ..ops.precision import at_least_float32
from .base_map_tokenizer import BaseMapTokenizer


@MODELS.register_module()
class ConvTokenizer(BaseMapTokenizer):
    """Tokens of a CNN by a strided convolution, kernel and stride being the window (paper, Table II).

    Channels stay as they are; they are found at the first call, which the distiller makes while it is built. The
    convolution starts as average pooling. It is learned on the student's side; the paper detaches the teacher's, which
    therefore stays average pooling (the paper gives no initial value, and a random one would blur what the teacher knows).

    Args:
        window: Positions per token, one number or (height, width).

    Raises:
        ValueError: ``window`` is not made of positive integers.
    """

    def __init__(self, window: int | tuple[int, int] = 1) -> None:
        super().__init__(window)
        self.register_module('conv', None)

    def tokenize(self, feature: torch.Tensor) -> torch.Tensor:
        feature = whole_cells(at_least_float32(feature), self.window)
        if self.conv is None:
            self.conv = self._averaging(feature.shape[1]).to(feature)
        return self.conv(feature)

    def _averaging(self, channels: int) -> nn.Conv2d:
        """A convolution of ``channels`` to ``channels`` that averages each window."""
        conv = nn.Conv2d(channels, channels, self.window, self.window)
        with torch.no_grad():
            average = 1 / (self.window[0] * self.window[1])
            conv.weight.copy_(torch.eye(channels)[:, :, None, None].mul(average).expand_as(conv.weight))
            conv.bias.zero_()
        return conv
