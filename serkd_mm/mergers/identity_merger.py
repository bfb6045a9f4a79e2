import torch
from mmpretrain.registry import MODELS

from .base_merger import BaseMerger


@MODELS.register_module()
class IdentityMerger(BaseMerger):
    """The tokens without merging (SeRKD, arXiv:2503.21269, Table VI, direct-based); also what the feature loss reads."""

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        return grid

    def associate(self, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the grid ``(B, C, H, W)`` and the identity ``(B, H*W, H*W)``."""
        identity = torch.eye(grid[0, 0].numel(), dtype=grid.dtype, device=grid.device)
        return grid, identity.expand(grid.shape[0], -1, -1)
