import torch
from mmpretrain.registry import MODELS

from .base_merger import BaseMerger


@MODELS.register_module()
class IdentityMerger(BaseMerger):
    """Every token by itself (Table VI, direct-based); also what the feature loss reads."""

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        return grid.flatten(2).mT

    def grid_shape(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def associate(self, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens ``(B, H*W, C)`` and the identity ``(B, H*W, H*W)``."""
        tokens = self(grid)
        identity = torch.eye(tokens.shape[1], dtype=tokens.dtype, device=tokens.device)
        return tokens, identity.expand(tokens.shape[0], -1, -1)
