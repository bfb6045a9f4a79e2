from abc import abstractmethod

import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS

from ..ops.cells import as_cell, average_cells, cell_of_token, maximum_cells, superpixel_grid
from .base_merger import BaseMerger


class CellMerger(BaseMerger):
    """One token per cell of a regular grid: what the paper calls pooling-based merging (Table VI).

    Args:
        cell: Tokens per cell, one number or (height, width). A grid that the cell does not divide is padded by
            replication.
        grid: Rows and columns of merged tokens, instead of ``cell``: gives a student and a teacher of different resolution
            equally many.

    Raises:
        ValueError: ``cell`` or ``grid`` is not made of positive integers.
    """

    def __init__(self, cell: int | tuple[int, int] = 2, grid: int | tuple[int, int] | None = None) -> None:
        super().__init__()
        self.cell = as_cell(cell, grid)

    @abstractmethod
    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        """Merged tokens ``(B, M, C)`` of a token grid ``(B, C, H, W)``."""

    def grid_shape(self, height: int, width: int) -> tuple[int, int]:
        return superpixel_grid(height, width, self.cell)

    def associate(self, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Merged tokens ``(B, M, C)`` and the one-hot association ``(B, H*W, M)`` of each token to its own cell."""
        merged = self(grid)
        own = cell_of_token(*grid.shape[-2:], self.cell, grid.device)
        association = F.one_hot(own, merged.shape[1]).to(merged.dtype)
        return merged, association.expand(grid.shape[0], -1, -1)

    def extra_repr(self) -> str:
        return f'cell={self.cell}'


@MODELS.register_module()
class AvgPoolMerger(CellMerger):
    """The average of each cell (Table VI, AvgPooling-based)."""

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        return average_cells(grid, self.cell).flatten(2).mT


@MODELS.register_module()
class MaxPoolMerger(CellMerger):
    """The channel-wise maximum of each cell (Table VI, MaxPooling-based)."""

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        return maximum_cells(grid, self.cell).flatten(2).mT
