import torch
from mmpretrain.registry import MODELS

from ..ops.cells import cell_from_settings, describe_cell
from ..ops.sizes import Size
from ..ops.superpixels import associate_superpixels
from .base_merger import BaseMerger


@MODELS.register_module()
class SuperpixelMerger(BaseMerger):
    """Superpixel tokens, equations 7 and 8 of SeRKD (arXiv:2503.21269); see :func:`serkd_mm.ops.associate_superpixels`.

    Args:
        cell: Tokens per initial superpixel, one number or (height, width); the paper's H_t x W_t (Table VIII). Default: 2.
        num_iters: Rounds of association and update; the paper's T (Table IX). Default: 1.
        detach_association: Stop the gradient at the association Q. Default: False.
        grid: Rows and columns of superpixels, one number or both, instead of ``cell``: the same number of tokens for a
            student and a teacher of different resolution. Default: None.

    Raises:
        ValueError: ``cell``, ``grid`` or ``num_iters`` is not a positive integer, or ``detach_association`` is no bool.
    """

    def __init__(
        self, cell: Size = 2, num_iters: int = 1, detach_association: bool = False, grid: Size | None = None
    ) -> None:
        super().__init__()
        self.cell = cell_from_settings(cell, grid)
        if not isinstance(num_iters, int) or isinstance(num_iters, bool) or num_iters < 1:
            raise ValueError(f'num_iters must be a positive integer, but got {num_iters!r}')
        if not isinstance(detach_association, bool):
            raise ValueError(f'detach_association must be True or False, but got {detach_association!r}')
        self.num_iters = num_iters
        self.detach_association = detach_association

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        """Cluster a token grid ``(B, C, H, W)`` into the superpixel grid ``(B, C, h, w)``."""
        return self.associate(grid)[0]

    def associate(self, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the superpixel grid ``(B, C, h, w)`` and the association Q of the last iteration ``(B, H*W, h*w)``."""
        return associate_superpixels(grid, self.cell, self.num_iters, self.detach_association)

    def extra_repr(self) -> str:
        return f'{describe_cell(self.cell)}, num_iters={self.num_iters}, detach_association={self.detach_association}'
