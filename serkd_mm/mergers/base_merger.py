from abc import ABCMeta, abstractmethod

import torch
from torch import nn


class BaseMerger(nn.Module, metaclass=ABCMeta):
    """What every merger offers: merged tokens, and who went where."""

    @abstractmethod
    def associate(self, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Merged tokens ``(B, M, C)`` and the association ``(B, H*W, M)`` of tokens to them, rows summing to 1.

        Args:
            grid: Token grid ``(B, C, H, W)``.
        """

    @abstractmethod
    def grid_shape(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns in which the merged tokens of a grid of ``height`` x ``width`` tokens lie."""

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        """Merged tokens ``(B, M, C)`` of a token grid ``(B, C, H, W)``."""
        return self.associate(grid)[0]
