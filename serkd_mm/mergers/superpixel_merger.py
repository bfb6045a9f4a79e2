import torch
from mmpretrain.registry import MODELS

from ..ops.cells import as_cell, superpixel_grid
from ..ops.superpixels import associate_superpixels, superpixel_tokens
from .base_merger import BaseMerger


@MODELS.register_module()
class SuperpixelMerger(BaseMerger):
    """Superpixel tokens (paper, section IV-A, equations 7 and 8); see :func:`serkd_mm.ops.associate_superpixels`.

    Args:
        cell: Tokens per initial superpixel, one number or (height, width). The paper's H_t x W_t (Table VIII).
        num_iters: Rounds of association and update. The paper's T (Table IX).
        detach_association: Stop the gradient at the association Q.
        grid: Rows and columns of merged tokens, instead of ``cell``: gives a student and a teacher of different resolution
            equally many.

    Raises:
        ValueError: ``cell``, ``grid`` or ``num_iters`` is not a positive integer.
    """

    def __init__(
        self,
        cell: int | tuple[int, int] = 2,
        num_iters: int = 1,
        detach_association: bool = False,
        grid: int | tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.cell = as_cell(cell, grid)
        if not isinstance(num_iters, int) or num_iters < 1:
            raise ValueError(f'num_iters must be a positive integer, but got {num_iters!r}')
        self.num_iters = num_iters
        self.detach_association = detach_association

    def grid_shape(self, height: int, width: int) -> tuple[int, int]:
        return superpixel_grid(height, width, self.cell)

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        """Superpixel tokens ``(B, M, C)`` of a token grid ``(B, C, H, W)``."""
        return superpixel_tokens(grid, self.cell, self.num_iters, self.detach_association)

    def associate(self, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Superpixel tokens ``(B, M, C)`` and the association of the last iteration ``(B, H*W, M)``."""
        return associate_superpixels(grid, self.cell, self.num_iters, self.detach_association)

    def extra_repr(self) -> str:
        return f'cell={self.cell}, num_iters={self.num_iters}, detach_association={self.detach_association}'
