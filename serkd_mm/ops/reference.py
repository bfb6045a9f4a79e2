"""The paper's equations as the paper writes them: what every faster form in this package must equal.

SeRKD (Yan et al., arXiv:2503.21269): superpixels are equations 7 and 8, the two relation losses are the listings of section
V-B. The functions run on any device, in the dtype of their input, and under autograd. They are meant for reading, for tests
and for benchmarks: the angle loss stores B x L x L x C differences and B x L^3 cosines.
"""

import torch
import torch.nn.functional as F


def superpixel_tokens(grid: torch.Tensor, cell: int = 2, num_iters: int = 1) -> torch.Tensor:
    r"""Cluster a token grid into superpixels, equations 7 and 8.

    .. math::
        Q^t = \mathrm{softmax}\Big(\frac{T (S^{t-1})^\top}{\sqrt{C}}\Big) \qquad S^t = (\hat Q^t)^\top T

    Args:
        grid: Tokens ``(B, C, H, W)``; ``cell`` must divide H and W.
        cell: Tokens per cell and side, the paper's H_t = W_t. Default: 2.
        num_iters: Iterations, the paper's T. Default: 1.

    Returns:
        Superpixel tokens ``(B, M, C)``, row by row over the superpixel grid.
    """
    channels, height, width = grid.shape[1:]
    rows, columns = height // cell, width // cell
    own = torch.arange(height * width, device=grid.device)
    own_row, own_column = own // width // cell, own % width // cell
    index = torch.arange(rows * columns, device=grid.device)
    row_distance = (own_row[:, None] - index // columns).abs()
    column_distance = (own_column[:, None] - index % columns).abs()
    outside = (row_distance > 1) | (column_distance > 1)  # Of the 3 x 3 superpixels around the token's own cell.

    tokens = grid.flatten(2).transpose(1, 2)
    superpixels = F.avg_pool2d(grid, cell).flatten(2).transpose(1, 2)
    for _ in range(num_iters):
        scores = tokens @ superpixels.transpose(1, 2) / channels**0.5
        association = torch.softmax(scores.masked_fill(outside, -torch.inf), dim=2)
        column_normalized = association / association.sum(dim=1, keepdim=True)
        superpixels = column_normalized.transpose(1, 2) @ tokens
    return superpixels


def distance_relation_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compare normalized distances, equation 10: ``RkdDistance_token`` of the paper's listing.

    Args:
        student: Tokens ``(B, L, C_s)``.
        teacher: Tokens ``(B, L, C_t)``; receives no gradient.

    Returns:
        The 0-d loss.
    """
    with torch.no_grad():
        target = _normalized_distances(teacher)
    return F.smooth_l1_loss(_normalized_distances(student), target)


def angle_relation_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compare the cosines of the angles at every token, equation 11: ``RKdAngle_token`` of the paper's listing.

    Args:
        student: Tokens ``(B, L, C_s)``.
        teacher: Tokens ``(B, L, C_t)``; receives no gradient.

    Returns:
        The 0-d loss.
    """
    with torch.no_grad():
        target = _cosines(teacher)
    return F.smooth_l1_loss(_cosines(student), target)


def _normalized_distances(tokens: torch.Tensor) -> torch.Tensor:
    """Distances ``(B, L, L)`` over their mean over the L (L - 1) pairs of different tokens, equations 1 and 10."""
    length = tokens.shape[1]
    squared_norms = tokens.pow(2).sum(dim=2)
    products = torch.einsum('bik,bjk->bij', tokens, tokens)
    squared = squared_norms.unsqueeze(2) + squared_norms.unsqueeze(1) - 2 * products
    distances = squared.clamp(min=_epsilon(tokens)).sqrt()
    distances = distances * (1 - torch.eye(length, dtype=tokens.dtype, device=tokens.device))
    return distances / (distances.sum(dim=(1, 2), keepdim=True) / (length * (length - 1)))


def _cosines(tokens: torch.Tensor) -> torch.Tensor:
    """Cosines ``(B, L, L, L)`` of the angles at token i between tokens j and k, equation 3."""
    differences = tokens.unsqueeze(2) - tokens.unsqueeze(1)
    directions = F.normalize(differences, p=2, dim=3, eps=_epsilon(tokens))
    return directions @ directions.transpose(2, 3)


def _epsilon(tokens: torch.Tensor) -> float:
    """The listing's 1e-12, or in float16, where that is 0, the smallest normal number."""
    return max(1e-12, torch.finfo(tokens.dtype).tiny)
