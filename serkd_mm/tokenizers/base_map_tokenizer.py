from abc import abstractmethod

import torch

from ..ops.cells import OutputGrid, cell_from_settings, describe_cell
from ..ops.sizes import Size
from .base_tokenizer import BaseTokenizer
from .feature import Feature


class BaseMapTokenizer(BaseTokenizer):
    """Tokens of a CNN: one for each window of a feature map, equation 9 (SeRKD, arXiv:2503.21269, section IV-A.2).

    Args:
        window: The tokenizing window H_p x W_p in positions of the map, one number or (height, width); also the stride. A
            map that it does not divide is padded at the bottom and right by replication. Default: 1.
        grid: Rows and columns of tokens, one number or both, instead of ``window``, which then follows from each map: one
            setting for stages of different resolution. Default: None.

    Raises:
        ValueError: ``window`` or ``grid`` is not made of positive integers.
    """

    def __init__(self, window: Size = 1, grid: Size | None = None) -> None:
        super().__init__()
        self.window: tuple[int, int] | OutputGrid = cell_from_settings(window, grid, 'window')

    @abstractmethod
    def tokenize(self, feature: torch.Tensor) -> torch.Tensor:
        """Compute the token grid ``(B, C, rows, columns)`` of a feature map ``(B, C, H, W)``."""

    def forward(self, feature: Feature) -> torch.Tensor:
        """Tokenize a feature map.

        Args:
            feature: Output of a stage; its tensor is ``(B, C, H, W)``.

        Returns:
            The token grid ``(B, C, rows, columns)``.

        Raises:
            ValueError: The tensor is not 4-D, or smaller than the window or the grid.
        """
        if feature.tensor.ndim != 4:
            raise ValueError(
                f'{type(self).__name__} reads the feature map (B, C, H, W) of a stage, '
                f'but the tap has shape {tuple(feature.tensor.shape)}'
            )
        return self.tokenize(feature.tensor)

    def extra_repr(self) -> str:
        return describe_cell(self.window, 'window')
