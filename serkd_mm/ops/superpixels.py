"""Superpixel tokens: soft clustering of a token grid, equations 7 and 8 (SeRKD, arXiv:2503.21269, section IV-A).

Equals :func:`serkd_mm.ops.reference.superpixel_tokens`, and adds grids that the cell does not divide, half precision, and
superpixels that no token prefers. The association is a dense ``(B, N, M)`` matrix with zeros outside each token's 3 x 3
superpixels: at the paper's 14 x 14 tokens that is faster than gathering nine neighbors. Memory grows with N x M.
"""

import torch
from torch import Tensor

from .cells import Cell, average_cells, cell_of_token, superpixel_grid
from .precision import at_least_float32, autocast_off


def superpixel_tokens(grid: Tensor, cell: Cell = 2, num_iters: int = 1, detach_association: bool = False) -> Tensor:
    """Cluster a token grid into superpixel tokens; see :func:`associate_superpixels`.

    Returns:
        Superpixel tokens ``(B, M, C)``, row by row over the superpixel grid.
    """
    return associate_superpixels(grid, cell, num_iters, detach_association)[0].flatten(2).mT


def associate_superpixels(
    grid: Tensor, cell: Cell = 2, num_iters: int = 1, detach_association: bool = False
) -> tuple[Tensor, Tensor]:
    r"""Cluster a token grid into superpixels, equations 7 and 8.

    .. math::
        Q^t = \mathrm{softmax}\Big(\frac{T (S^{t-1})^\top}{\sqrt{C}}\Big) \qquad S^t = (\hat Q^t)^\top T

    S^0 is the average of each cell. The softmax runs over the 3 x 3 superpixels around the token's own cell; Q-hat is Q with
    columns that sum to 1.

    Choices: at the border there are fewer than nine superpixels, and the softmax runs over those that exist (zero padding,
    as in some code for STViT, arXiv:2211.11167, would leak probability to superpixels that do not exist). Columns are
    normalized in log space. The result is the same, except that a superpixel that no token prefers stays a mean of its
    tokens instead of 0/0. Computed in float32 or better, also under autocast.

    Args:
        grid: Tokens ``(B, C, H, W)`` of any floating dtype.
        cell: Tokens per cell, one number or (height, width), or an :class:`OutputGrid`. The paper's H_t x W_t. Default: 2.
        num_iters: Iterations, the paper's T; at least 1. Default: 1.
        detach_association: Stop the gradient at Q, so that it reaches the tokens through equation 8 only. Default: False.

    Returns:
        The superpixel grid ``(B, C, h, w)`` and the association Q of the last iteration ``(B, H*W, h*w)``, rows summing
        to 1; both in the dtype of ``grid`` promoted to at least float32.

    Raises:
        ValueError: ``grid`` is not 4-D, ``cell`` or ``num_iters`` is not positive, or the cell is larger than the grid.
    """
    if grid.ndim != 4:
        raise ValueError(f'superpixels need a token grid (B, C, H, W), but got shape {tuple(grid.shape)}')
    if num_iters < 1:
        raise ValueError(f'num_iters must be at least 1, but got {num_iters}')
    grid = at_least_float32(grid)
    outside = _outside_neighborhood(*grid.shape[-2:], cell, grid.device)
    with autocast_off(grid):
        initial = average_cells(grid, cell)
        tokens, superpixels = grid.flatten(2).mT, initial.flatten(2).mT
        for _ in range(num_iters):
            scores = tokens @ superpixels.mT * grid.shape[1] ** -0.5
            log_association = scores.masked_fill(outside, -torch.inf).log_softmax(dim=2)
            if detach_association:
                log_association = log_association.detach()
            superpixels = log_association.softmax(dim=1).mT @ tokens
    return superpixels.mT.unflatten(2, initial.shape[-2:]), log_association.exp()


def _outside_neighborhood(height: int, width: int, cell: Cell, device: torch.device) -> Tensor:
    """Mask ``(N, M)`` of the superpixels that are not among the 3 x 3 around the token's own cell."""
    rows, columns = superpixel_grid(height, width, cell)
    own, superpixel = cell_of_token(height, width, cell, device), torch.arange(rows * columns, device=device)
    row_distance = (own[:, None] // columns - superpixel // columns).abs()
    column_distance = (own[:, None] % columns - superpixel % columns).abs()
    return torch.maximum(row_distance, column_distance) > 1
