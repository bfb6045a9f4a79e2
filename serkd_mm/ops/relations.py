"""Relations between the tokens of an image, and the losses that compare them (paper, equations 1-3, 10 and 11).

The definition of value and gradient is the listing in section V-B of the paper. The listing builds B x L x L x C
differences and B x L^3 angles; here everything follows from the Gram matrix of the centred tokens, and memory is O(B L^2):

    |x_j - x_i|^2       = G_ii + G_jj - 2 G_ij
    <x_j - x_i, x_k - x_i> = G_jk - G_ij - G_ik + G_ii

Both lines subtract large numbers from each other, which float32 does not survive when tokens are close: Gram matrices and
their differences are float64. Tokens, their gradients and the loss have the tokens' format.
"""

import torch

from .closed_form_distances import closed_form_distance_loss
from .precision import at_least_float32, autocast_off
from .streamed_angles import streamed_angle_loss


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
    loss = closed_form_distance_loss(*_centred_grams(student, teacher))
    return loss.to(at_least_float32(student).dtype)


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
    loss = streamed_angle_loss(*_centred_grams(student, teacher), exact=student.dtype == torch.float64)
    return loss.to(at_least_float32(student).dtype)


def _centred_grams(student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gram matrices of both sides, that of the teacher without a graph."""
    if student.ndim != 3 or teacher.ndim != 3 or student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            'a relation loss compares tokens (B, L, C_s) with tokens (B, L, C_t) of equal B and L, '
            f'but got student {tuple(student.shape)} and teacher {tuple(teacher.shape)}'
        )
    return _centred_gram(student), _centred_gram(teacher.detach())


def _centred_gram(tokens: torch.Tensor) -> torch.Tensor:
    """G = X X^T of the tokens centred per image, ``(B, L, L)`` in float64; centring changes no relation."""
    exact = torch.float32 if tokens.device.type == 'mps' else torch.float64  # Apple's GPUs have no float64.
    tokens = tokens - tokens.mean(dim=1, keepdim=True, dtype=exact)
    with autocast_off(tokens):
        return tokens @ tokens.mT
