"""Relations between the tokens of an image, and the losses that compare them (paper, equations 1-3, 10 and 11).

The definition of value and gradient is the listing in section V-B of the paper. The listing builds B x L x L x C
differences and B x L^3 angles; here everything follows from the squared distances D of an image's tokens, which follow
from the Gram matrix G of the centred tokens, and memory is O(B L^2):

    D_ij = |x_j - x_i|^2            = G_ii + G_jj - 2 G_ij
    <x_j - x_i, x_k - x_i>          = (D_ij + D_ik - D_jk) / 2

The first line subtracts large numbers from each other, which float32 does not survive when tokens are close: it is float64.
The second loses no more than the float32 tokens have lost themselves. Losses are scalars, so that their gradient with
respect to D, and through it that with respect to the tokens, is computed together with the value, and kept alone.
"""

from collections.abc import Callable

import torch

from .closed_form_distances import closed_form_distance_loss
from .known_gradient import with_gradient
from .precision import at_least_float32, autocast_off, most_exact
from .streamed_angles import streamed_angle_loss

# Two tokens closer than 1e-6 of their norm are one: float32 can not tell them apart, and knows no direction between them.
_EQUAL_TOKENS = 1e-12


def distance_relation_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Distance-wise relation loss, equation 10: Huber loss between normalised pairwise distances.

    Per image, Euclidean distances between all pairs of tokens are divided by their mean over the L(L-1) off-diagonal
    pairs; the Huber loss (delta 1) is averaged over B x L x L, as in the paper's ``RkdDistance_token``.

    Choices where the listing gives no number: a single token (L = 1) has no pair and gives 0, where the listing divides 0
    by 0. Equal tokens keep the listing's floor of 1e-6 under a distance, and no gradient.

    Args:
        student: Tokens ``(B, L, C_s)`` of any floating format; computed in float32 or better.
        teacher: Tokens ``(B, L, C_t)``; receives no gradient.

    Returns:
        The 0-d loss, in the student's format promoted to at least float32.

    Raises:
        ValueError: The two sides are not 3-D, or differ in B or L.
    """
    return _relation_loss(closed_form_distance_loss, student, teacher)


def angle_relation_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Angle-wise relation loss, equation 11: Huber loss between the cosines at every vertex of every triplet.

    For each image and each triplet (i, j, k) the potential is the cosine of the angle at token i between tokens j and k
    (equation 3); the Huber loss (delta 1) is averaged over B x L x L x L, as in the paper's ``RKdAngle_token``.

    Where tokens i and j are equal there is no direction from one to the other: as in the listing the cosine is 0, and
    here, unlike there, so is its gradient (the listing's is multiplied by 1e12, the inverse of its epsilon).

    Args:
        student: Tokens ``(B, L, C_s)`` of any floating format; computed in float32 or better.
        teacher: Tokens ``(B, L, C_t)``; receives no gradient.

    Returns:
        The 0-d loss, in the student's format promoted to at least float32.

    Raises:
        ValueError: The two sides are not 3-D, or differ in B or L.
    """
    return _relation_loss(streamed_angle_loss, student, teacher)


def _relation_loss(compare: Callable, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """A loss between squared distances, as a function of the tokens.

    Args:
        compare: Gives the loss between squared distances ``(B, L, L)`` of both sides, and its gradient ``(B, L, L)`` with
            respect to the student's.
        student: Tokens ``(B, L, C_s)``.
        teacher: Tokens ``(B, L, C_t)``.
    """
    if student.ndim != 3 or teacher.ndim != 3 or student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            'a relation loss compares tokens (B, L, C_s) with tokens (B, L, C_t) of equal B and L, '
            f'but got student {tuple(student.shape)} and teacher {tuple(teacher.shape)}'
        )
    dtype = at_least_float32(student).dtype
    with torch.no_grad(), autocast_off(student):
        target = _squared_distances(_centred(teacher)).to(dtype)
        tokens = _centred(student)
        value, gradient = compare(_squared_distances(tokens).to(dtype), target)
        gradient = _through_squared_distances(tokens, gradient).to(dtype)
    return with_gradient(student, value.to(dtype), gradient)


def _centred(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens less their mean over the image, which changes no relation; float64."""
    tokens = tokens.to(most_exact(tokens), copy=True)
    return tokens.sub_(tokens.mean(dim=1, keepdim=True))


def _squared_distances(tokens: torch.Tensor) -> torch.Tensor:
    """Squared distance ``(B, L, L)`` between every two tokens ``(B, L, C)`` that are centred; 0 where they are equal."""
    gram = tokens @ tokens.mT
    norms = gram.diagonal(dim1=1, dim2=2)
    sums = norms[:, :, None] + norms[:, None, :]
    squared = torch.sub(sums, gram, alpha=2)
    return squared.masked_fill_(squared <= _EQUAL_TOKENS * sums, 0.0)


def _through_squared_distances(tokens: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The gradient with respect to the tokens, sum_j 2 (g_ij + g_ji) (x_i - x_j), from that with respect to D, g."""
    both = (2 * (gradient + gradient.mT)).to(tokens.dtype)
    return torch.baddbmm(both.sum(dim=2, keepdim=True) * tokens, both, tokens, alpha=-1)
