import math
from numbers import Real

import torch
from mmpretrain.registry import MODELS

from ..ops.cells import cell_from_settings, describe_cell
from ..ops.sizes import Size
from ..ops.superpixels import associate_superpixels
from .base_merger import BaseMerger


@MODELS.register_module()
class SuperpixelMerger(BaseMerger):
    """Superpixel tokens, equations 7 and 8 of SeRKD (arXiv:2503.21269); see :func:`serkd_mm.ops.associate_superpixels`.

    ``normalize``, ``tau`` and ``exclude_self`` are not the paper's, which the defaults are. With the features of real
    teachers, a token's score with its own cell, which contains the token, saturates the softmax: Q is nearly one-hot at the
    own cell, and superpixels are nearly average pooling. The options change that. Superpixels remain means of the
    unchanged tokens.

    Args:
        cell: Tokens per initial superpixel, one number or (height, width); the paper's H_t x W_t (Table VIII). Default: 2.
        num_iters: Rounds of association and update; the paper's T (Table IX). Default: 1.
        detach_association: Stop the gradient at the association Q. Default: False.
        grid: Rows and columns of superpixels, one number or both, instead of ``cell``: the same number of tokens for a
            student and a teacher of different resolution. Default: None.
        normalize: Compare layer-normalized tokens (without learned scale and shift). Default: False.
        tau: Temperature that divides the scores; a larger one makes Q softer. Default: 1.0.
        exclude_self: Compare a token with the mean of a superpixel's other tokens. Default: False.

    Raises:
        ValueError: ``cell``, ``grid`` or ``num_iters`` is not a positive integer, ``tau`` is not a positive finite number,
            or ``detach_association``, ``normalize`` or ``exclude_self`` is no bool.
    """

    def __init__(
        self,
        cell: Size = 2,
        num_iters: int = 1,
        detach_association: bool = False,
        grid: Size | None = None,
        normalize: bool = False,
        tau: float = 1.0,
        exclude_self: bool = False,
    ) -> None:
        super().__init__()
        self.cell = cell_from_settings(cell, grid)
        if not isinstance(num_iters, int) or isinstance(num_iters, bool) or num_iters < 1:
            raise ValueError(f'num_iters must be a positive integer, but got {num_iters!r}')
        switches = {'detach_association': detach_association, 'normalize': normalize, 'exclude_self': exclude_self}
        for name, value in switches.items():
            if not isinstance(value, bool):
                raise ValueError(f'{name} must be True or False, but got {value!r}')
        if not isinstance(tau, Real) or isinstance(tau, bool) or not 0 < tau < math.inf:
            raise ValueError(f'tau must be a positive finite number, but got {tau!r}')
        self.num_iters = num_iters
        self.detach_association = detach_association
        self.options = {'normalize': normalize, 'tau': tau, 'exclude_self': exclude_self}

    def forward(self, grid: torch.Tensor) -> torch.Tensor:
        """Cluster a token grid ``(B, C, H, W)`` into the superpixel grid ``(B, C, h, w)``."""
        return self.associate(grid)[0]

    def associate(self, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the superpixel grid ``(B, C, h, w)`` and the association Q of the last iteration ``(B, H*W, h*w)``."""
        return associate_superpixels(grid, self.cell, self.num_iters, self.detach_association, **self.options)

    def extra_repr(self) -> str:
        options = ''.join(f', {name}={value}' for name, value in self.options.items())
        return (
            f'{describe_cell(self.cell)}, num_iters={self.num_iters}, detach_association={self.detach_association}{options}'
        )
