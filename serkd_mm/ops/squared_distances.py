"""Squared distances between the tokens of an image, and losses that depend on the tokens through them alone.

Both relation losses are functions of the squared distances D, which follow from the Gram matrix G of the centered tokens:

    D_ij = |x_j - x_i|^2            = G_ii + G_jj - 2 G_ij
    <x_j - x_i, x_k - x_i>          = (D_ij + D_ik - D_jk) / 2

Memory is O(B L^2). The first line subtracts large numbers from each other: in float32, close tokens lose their distance, so
it is computed in float64. The second line is accurate enough in float32. The losses are scalars: their gradient with respect
to D, and through D with respect to the tokens, is computed together with the value, and only the last is stored.
"""

from collections.abc import Callable

import torch

from .precision import at_least_float32, autocast_off, most_exact
from .precomputed_gradient import attach_gradient

# Tokens closer than 1e-6 of their norm are equal: float32 cannot resolve a direction between them.
_EQUAL_TOKENS = 1e-12

ValueAndGradient = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def relation_loss(compare: ValueAndGradient, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Evaluate a loss between squared distances as a function of the student's tokens.

    Args:
        compare: Maps the squared distances ``(B, L, L)`` of student and teacher to the 0-d loss and its gradient
            ``(B, L, L)`` with respect to the student's.
        student: Tokens ``(B, L, C_s)`` of any floating dtype.
        teacher: Tokens ``(B, L, C_t)``; receives no gradient.

    Returns:
        The 0-d loss, in the student's dtype promoted to at least float32.

    Raises:
        ValueError: The two sides are not 3-D, or differ in B or L.
    """
    if student.ndim != 3 or teacher.ndim != 3 or student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            'a relation loss compares tokens (B, L, C_s) with tokens (B, L, C_t) of equal B and L, '
            f'but got student {tuple(student.shape)} and teacher {tuple(teacher.shape)}'
        )
    dtype = at_least_float32(student).dtype
    with torch.no_grad(), autocast_off(student):
        target = squared_distances(_centered(teacher)).to(dtype)
        tokens = _centered(student)
        value, gradient = compare(squared_distances(tokens).to(dtype), target)
        gradient = _gradient_of_tokens(tokens, gradient).to(dtype)
    return attach_gradient(student, value.to(dtype), gradient)


def squared_distances(tokens: torch.Tensor) -> torch.Tensor:
    """Compute the squared distance between every two tokens.

    Args:
        tokens: Tokens ``(B, L, C)``. Accurate between close tokens only if they are centered and in float64.

    Returns:
        ``(B, L, L)`` in the dtype of ``tokens``; exactly 0 between equal tokens.
    """
    gram = tokens @ tokens.mT
    norms = gram.diagonal(dim1=1, dim2=2)
    sums = norms[:, :, None] + norms[:, None, :]
    squared = torch.sub(sums, gram, alpha=2)
    return squared.masked_fill_(squared <= _EQUAL_TOKENS * sums, 0.0)


def _centered(tokens: torch.Tensor) -> torch.Tensor:
    """Subtract the mean token of the image, which changes no relation; float64."""
    tokens = tokens.to(most_exact(tokens), copy=True)
    return tokens.sub_(tokens.mean(dim=1, keepdim=True))


def _gradient_of_tokens(tokens: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Chain rule from D to the tokens: sum_j 2 (g_ij + g_ji) (x_i - x_j) for a gradient g with respect to D."""
    both = (2 * (gradient + gradient.mT)).to(tokens.dtype)
    return torch.baddbmm(both.sum(dim=2, keepdim=True) * tokens, both, tokens, alpha=-1)
