import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS

from ..ops.cells import average_cells, cell_from_settings, cell_of_token, describe_cell, maximum_cells
from ..ops.sizes import Size
from .base_merger import BaseMerger


class CellMerger(BaseMerger):
    """One token for each cell of a regular grid: pooling-based merging (SeRKD, arXiv:2503.21269, Table VI).

    Args:
        cell: Tokens per cell, one number or (height, width). A grid that the cell does not divide is padded by
            replication. Default: 2.
        grid: Rows and columns of merged tokens, one number or both, instead of ``cell``: the same number of tokens for a
            student and a teacher of different resolution. Default: None.

    Raises:
        ValueError: ``cell`` or ``grid`` is not made of positive integers.
    """

    def __init__(self, cell: Size = 2, grid: Size | None = None) -> None:
        super().__init__()
        self.cell = cell_from_settings(cell, grid)

    def associate(self, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the merged grid ``(B, C, h, w)`` and the one-hot association ``(B, H*W, h*w)`` of tokens to cells."""
        merged = self(grid)
        own = cell_of_token(*grid.shape[-2:], self.cell, grid.device)
        association = F.one_hot(own, merged[0, 0].numel()).to(merged.dtype)
        return merged, association.expand(grid.shape[0], -1, -1)

    def extra_repr(self) -> str:
        return describe_cell(self.cell)


@MODELS.register_module()
class AvgPoolMerger(CellMerger):
    """The average of each cell (SeRKD, Table VI, AvgPooling-based); arguments as for :class:`CellMerger`."""

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        return average_cells(grid, self.cell)


@MODELS.register_module()
class MaxPoolMerger(CellMerger):
    """The channel-wise maximum of each cell (SeRKD, Table VI, MaxPooling-based); arguments as for :class:`CellMerger`."""

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        return maximum_cells(grid, self.cell)
