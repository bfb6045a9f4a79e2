"""Superpixel tokens: soft clustering of a token grid, equations 7 and 8 (SeRKD, arXiv:2503.21269, section IV-A).

Equals :func:`serkd_mm.ops.reference.superpixel_tokens`, and adds grids that the cell does not divide, half precision,
superpixels that no token prefers, and options that the paper does not have. The association is a dense ``(B, N, M)``
matrix with zeros outside each token's 3 x 3 superpixels: at the paper's 14 x 14 tokens that is faster than gathering nine
neighbors. Memory grows with N x M.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .cells import Cell, average_cells, cell_of_token, superpixel_grid
from .precision import at_least_float32, autocast_off


def superpixel_tokens(
    grid: Tensor,
    cell: Cell = 2,
    num_iters: int = 1,
    detach_association: bool = False,
    *,
    normalize: bool = False,
    tau: float = 1.0,
    exclude_self: bool = False,
) -> Tensor:
    """Cluster a token grid into superpixel tokens; see :func:`associate_superpixels`.

    Returns:
        Superpixel tokens ``(B, M, C)``, row by row over the superpixel grid.
    """
    options = {'normalize': normalize, 'tau': tau, 'exclude_self': exclude_self}
    return associate_superpixels(grid, cell, num_iters, detach_association, **options)[0].flatten(2).mT


def associate_superpixels(
    grid: Tensor,
    cell: Cell = 2,
    num_iters: int = 1,
    detach_association: bool = False,
    *,
    normalize: bool = False,
    tau: float = 1.0,
    exclude_self: bool = False,
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

    ``normalize``, ``tau`` and ``exclude_self`` are options of this package and not of the paper, which the defaults are. A
    token's score with its own cell contains the token itself, and the large values of real features saturate the softmax, so
    that Q is nearly one-hot at the token's own cell and superpixels are nearly the averages of the cells. The options only
    change Q. With z the tokens that are compared, :math:`S^{t-1}_j = \sum_i w_{ij} T_i` and :math:`c_j = \sum_i w_{ij} z_i`,

    .. math::
        Q^t_{ij} \propto \exp \frac{\langle z_i, c_j \rangle}{\tau \sqrt{C}}
        \qquad \text{or, with exclude\_self,} \qquad
        Q^t_{ij} \propto \exp \frac{\langle z_i, c_j - w_{ij} z_i \rangle}{(1 - w_{ij}) \tau \sqrt{C}}

    Args:
        grid: Tokens ``(B, C, H, W)`` of any floating dtype.
        cell: Tokens per cell, one number or (height, width), or an :class:`OutputGrid`. The paper's H_t x W_t. Default: 2.
        num_iters: Iterations, the paper's T; at least 1. Default: 1.
        detach_association: Stop the gradient at Q, so that it reaches the tokens through equation 8 only. Default: False.
        normalize: Compare tokens that are layer-normalized over the channels. Default: False.
        tau: Temperature of Q, a positive number; a larger one makes Q softer. Default: 1.0.
        exclude_self: Leave a token's own share out of the center that it is compared with. A superpixel that is this token
            alone is compared as it is. Needs the ``(B, N, N)`` products of tokens. Default: False.

    Returns:
        The superpixel grid ``(B, C, h, w)`` and the association Q of the last iteration ``(B, H*W, h*w)``, rows summing
        to 1; both in the dtype of ``grid`` promoted to at least float32.

    Raises:
        ValueError: ``grid`` is not 4-D, ``cell``, ``num_iters`` or ``tau`` is not positive, or the cell is larger than the
            grid.
    """
    if grid.ndim != 4:
        raise ValueError(f'superpixels need a token grid (B, C, H, W), but got shape {tuple(grid.shape)}')
    if num_iters < 1:
        raise ValueError(f'num_iters must be at least 1, but got {num_iters}')
    if not 0 < tau < math.inf:
        raise ValueError(f'tau must be a positive finite number, but got {tau!r}')
    grid = at_least_float32(grid)
    outside = _outside_neighborhood(*grid.shape[-2:], cell, grid.device)
    with autocast_off(grid):
        initial = average_cells(grid, cell)
        tokens, centers = grid.flatten(2).mT, initial.flatten(2).mT
        compared = tokens
        if normalize:
            compared = F.layer_norm(tokens, tokens.shape[2:], eps=1e-6)
            centers = average_cells(compared.mT.unflatten(2, grid.shape[-2:]), cell).flatten(2).mT
        if exclude_self:
            products, weights = compared @ compared.mT, _weights_of_cells(grid, cell)
        for _ in range(num_iters):
            scores = _scores_of_others(products, weights) if exclude_self else compared @ centers.mT
            scores = scores * (grid.shape[1] ** -0.5 / tau)
            log_association = scores.masked_fill(outside, -torch.inf).log_softmax(dim=2)
            if detach_association:
                log_association = log_association.detach()
            weights = log_association.softmax(dim=1)
            centers = weights.mT @ compared
        superpixels = weights.mT @ tokens if normalize else centers
    return superpixels.mT.unflatten(2, initial.shape[-2:]), log_association.exp()


def _outside_neighborhood(height: int, width: int, cell: Cell, device: torch.device) -> Tensor:
    """Mask ``(N, M)`` of the superpixels that are not among the 3 x 3 around the token's own cell."""
    rows, columns = superpixel_grid(height, width, cell)
    own, superpixel = cell_of_token(height, width, cell, device), torch.arange(rows * columns, device=device)
    row_distance = (own[:, None] // columns - superpixel // columns).abs()
    column_distance = (own[:, None] % columns - superpixel % columns).abs()
    return torch.maximum(row_distance, column_distance) > 1


def _weights_of_cells(grid: Tensor, cell: Cell) -> Tensor:
    """Weight ``(1, N, M)`` of each token in the average of each cell, as padding or overlapping cells make it."""
    height, width = grid.shape[-2:]
    one_hot = torch.eye(height * width, dtype=grid.dtype, device=grid.device).view(1, -1, height, width)
    return average_cells(one_hot, cell).flatten(2)


def _scores_of_others(products: Tensor, weights: Tensor) -> Tensor:
    """Score ``(B, N, M)`` of each token with the mean of a superpixel's other tokens.

    Sums over the other tokens, instead of a difference from the center: that would lose all digits where the token is
    nearly the whole superpixel. Where it is the whole, up to what a division can bear, its score is that with the center.

    Args:
        products: Products of all pairs of tokens ``(B, N, N)``.
        weights: Weights of the tokens in the superpixels ``(B, N, M)``, columns summing to 1.
    """
    others = 1 - torch.eye(products.shape[1], dtype=products.dtype, device=products.device)
    share = others @ weights
    alone = share < torch.finfo(products.dtype).tiny ** 0.5
    of_center = products @ weights
    of_others = (products * others) @ weights / share.masked_fill(alone, 1)
    return torch.where(alone, of_center, of_others)
