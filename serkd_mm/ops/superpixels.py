"""Superpixel tokens: soft clustering of a token grid (paper, section IV-A, equations 7 and 8).

A token grid ``(B, C, H, W)`` is divided into cells; each cell starts one superpixel. Tokens are then softly assigned to the
3 x 3 superpixels around their own cell, and superpixels become the weighted means of their tokens. Only those nine are
computed: memory is O(9 N), and the N x M association exists where it is asked for alone.
"""

import torch

from .cells import Cell, average_cells
from .neighbourhoods import CellLayout, ColumnSoftmax, NeighbourScores, ToCells, WeightedSums, cell_layout
from .precision import at_least_float32, autocast_off


def superpixel_tokens(
    grid: torch.Tensor,
    cell: Cell = 2,
    num_iters: int = 1,
    detach_association: bool = False,
) -> torch.Tensor:
    """Superpixel tokens S^T of a token grid; see :func:`associate_superpixels`, which also returns the association.

    Returns:
        Superpixel tokens ``(B, M, C)``, row by row over the superpixel grid.
    """
    return _cluster(grid, cell, num_iters, detach_association)[0]


def associate_superpixels(
    grid: torch.Tensor,
    cell: Cell = 2,
    num_iters: int = 1,
    detach_association: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cluster a token grid into superpixels, equations 7 and 8.

    S^0 is the average of each cell. Each iteration takes Q = softmax(T S^T / sqrt(C)) over the 3 x 3 superpixels around a
    token's own cell, then S = Q_hat^T T with Q normalised over the tokens of each column.

    Choices: at the border of the grid there are fewer than nine superpixels and the softmax runs over those that exist
    (zero padding, as in some code for [20], would leak mass to superpixels that are not there). Columns are normalised in
    log space, which is the same number, so that a superpixel that no token prefers is still the mean of its tokens instead
    of 0/0. Computed in float32 or better, whatever the autocast format.

    Args:
        grid: Tokens ``(B, C, H, W)`` of any floating format.
        cell: Tokens per cell, one number or (height, width); or an :class:`OutputGrid`. The paper's H_t x W_t, 2 by default.
        num_iters: The paper's T, at least 1.
        detach_association: Stop the gradient at Q; it then reaches the tokens through equation 8 alone.

    Returns:
        Superpixel tokens ``(B, M, C)`` and the association Q of the last iteration ``(B, H*W, M)``, rows summing to 1; both
        in the format of the grid promoted to at least float32.

    Raises:
        ValueError: ``grid`` is not 4-D, ``cell`` or ``num_iters`` is not positive, or the cell is larger than the grid.
    """
    superpixels, association, layout = _cluster(grid, cell, num_iters, detach_association)
    return superpixels, layout.dense(association)


def _cluster(
    grid: torch.Tensor, cell: Cell, num_iters: int, detach_association: bool
) -> tuple[torch.Tensor, torch.Tensor, CellLayout]:
    """Superpixels ``(B, M, C)``, their association by cells ``(B, M, K, 9)``, and the layout of the cells."""
    if grid.ndim != 4:
        raise ValueError(f'superpixels are taken of a token grid (B, C, H, W), but got shape {tuple(grid.shape)}')
    if num_iters < 1:
        raise ValueError(f'num_iters must be at least 1, but got {num_iters}')
    grid = at_least_float32(grid)
    layout = cell_layout(*grid.shape[-2:], cell, grid.device)
    with autocast_off(grid):
        superpixels = average_cells(grid, cell).flatten(2).mT.contiguous()
        tokens = ToCells.apply(grid.flatten(2).mT, layout)
        for _ in range(num_iters):
            scores = NeighbourScores.apply(tokens, superpixels, layout) * grid.shape[1] ** -0.5
            log_association = scores.masked_fill(layout.absent, -torch.inf).log_softmax(dim=3)
            if detach_association:
                log_association = log_association.detach()
            weights = ColumnSoftmax.apply(log_association.masked_fill(layout.vacant, -torch.inf), layout)
            superpixels = WeightedSums.apply(weights, tokens, layout)
    return superpixels, log_association.exp(), layout
