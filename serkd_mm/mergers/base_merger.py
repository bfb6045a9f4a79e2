from abc import ABCMeta, abstractmethod

import torch
from torch import nn


class BaseMerger(nn.Module, metaclass=ABCMeta):
    """Base class of mergers: a token grid in, a smaller token grid out.

    Student and teacher share the merger of a view, so it must not have parameters; what learns is a refiner.
    """

    @abstractmethod
    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        """Merge the tokens of a grid.

        Args:
            grid: Token grid ``(B, C, H, W)``.

        Returns:
            The merged grid ``(B, C, h, w)``.
        """

    @abstractmethod
    def associate(self, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Merge the tokens of a grid, and return the token-to-merged-token association too.

        Args:
            grid: Token grid ``(B, C, H, W)``.

        Returns:
            The merged grid ``(B, C, h, w)`` and the association ``(B, H*W, h*w)``, rows summing to 1.
        """
