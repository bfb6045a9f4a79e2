from abc import abstractmethod

import torch

from ..ops.cells import cell_sides
from .base_tokenizer import BaseTokenizer


class BaseMapTokenizer(BaseTokenizer):
    """Tokens of a CNN: one of each window of a feature map (paper, equation 9).

    Args:
        window: The tokenizing window H_p x W_p in positions of the map, one number or (height, width); also the stride. A
            map that it does not divide is padded at the bottom and right by replication.

    Raises:
        ValueError: ``window`` is not made of positive integers.
    """

    def __init__(self, window: int | tuple[int, int] = 1) -> None:
        super().__init__()
        self.window = cell_sides(window)

    @abstractmethod
    def tokenize(self, feature: torch.Tensor) -> torch.Tensor:
        """The token grid ``(B, C, H / H_p, W / W_p)`` of a feature map ``(B, C, H, W)``."""

    def forward(
        self,
        feature: torch.Tensor,
        image_size: tuple[int, int] | None = None,
        num_extra_tokens: int | None = None,
    ) -> torch.Tensor:
        """The token grid of a feature map.

        Args:
            feature: Output of a stage, ``(B, C, H, W)``.
            image_size: Not needed: a map has its own proportions.
            num_extra_tokens: Not needed: a map has none.

        Raises:
            ValueError: ``feature`` is not 4-D, or smaller than the window.
        """
        if feature.ndim != 4:
            raise ValueError(
                f'{type(self).__name__} reads the feature map (B, C, H, W) of a stage, '
                f'but the tap gave shape {tuple(feature.shape)}'
            )
        return self.tokenize(feature)

    def extra_repr(self) -> str:
        return f'window={self.window}'
