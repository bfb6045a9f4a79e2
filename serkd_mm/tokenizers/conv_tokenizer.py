import math

import torch
from mmpretrain.registry import MODELS
from torch import nn

from ..lazy_layers import build_on_first_input
from ..ops.cells import OutputGrid, cell_size, pad_to_whole_cells
from ..ops.precision import at_least_float32
from ..ops.sizes import Size
from .base_map_tokenizer import BaseMapTokenizer
from .pool_tokenizer import PoolTokenizer


@MODELS.register_module()
class ConvTokenizer(BaseMapTokenizer):
    """Tokens of a CNN by a strided convolution, kernel and stride being the window (SeRKD, arXiv:2503.21269, Table II).

    The convolution keeps the number of channels, is built at the first call and starts as average pooling: the paper gives
    no initial value, and a random one would blur the features. It learns on the student's side. The paper detaches the
    teacher's, which therefore stays average pooling: the teacher's side pools.

    Args:
        window: Positions per token, one number or (height, width). Default: 1.
        grid: Rows and columns of tokens, instead of ``window``. The window is that of the first map, which the grid must
            divide. Default: None.

    Raises:
        ValueError: ``window`` or ``grid`` is not made of positive integers.
    """

    def __init__(self, window: Size = 1, grid: Size | None = None) -> None:
        super().__init__(window, grid)
        self.register_module('conv', None)

    def tokenize(self, feature: torch.Tensor) -> torch.Tensor:
        window = self._window_of(feature)
        feature = pad_to_whole_cells(at_least_float32(feature), window)
        conv = build_on_first_input(self, 'conv', feature, (feature.shape[1], *window), _averaging_conv)
        return conv(feature)

    def for_teacher(self) -> PoolTokenizer:
        """Return average pooling over the same windows."""
        pool = PoolTokenizer('avg')
        pool.window = self.window
        return pool

    def _window_of(self, feature: torch.Tensor) -> tuple[int, int]:
        """The window, from the map if the setting is the number of tokens."""
        window, (height, width) = cell_size(feature, self.window), feature.shape[-2:]
        if isinstance(window, OutputGrid):
            raise ValueError(
                f'grid {window.rows}x{window.columns} does not divide the map {height}x{width}, and a convolution needs '
                'whole windows: set window= or another grid='
            )
        return window


def _averaging_conv(channels: int, *window: int) -> nn.Conv2d:
    """A convolution of ``channels`` to ``channels`` that averages each window."""
    conv = nn.Conv2d(channels, channels, window, window)
    nn.init.zeros_(conv.bias)
    conv.weight.data.copy_(torch.eye(channels)[:, :, None, None] / math.prod(window))
    return conv
