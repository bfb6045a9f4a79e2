"""The distance-wise relation loss, equation 10; equals :func:`serkd_mm.ops.reference.distance_relation_loss`.

With d = sqrt(D) the distances between the tokens of an image, m their mean over pairs of different tokens, psi = d / m and
h' the derivative of the Huber loss between both sides' psi, the gradient is

    dL/dd_ij = (h'_ij - sum_kl h'_kl psi_kl / pairs) / m        dL/dD_ij = dL/dd_ij / (2 d_ij)
"""

import torch

from .squared_distances import relation_loss, squared_distances

# The listing's floor under squared distances.
_MIN_SQUARED_DISTANCE = 1e-12


def distance_relation_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    r"""Compare the normalized pairwise distances of student and teacher, equation 10.

    .. math::
        \mathcal L_{RD} = \frac{1}{B L^2} \sum_{b,i,j} l_1\Big(
            \frac{\lVert s_i - s_j \rVert}{\nu}, \frac{\lVert s'_i - s'_j \rVert}{\nu'}\Big)

    nu is the mean distance over the L(L-1) pairs of different tokens of the image, l_1 the Huber loss with delta 1; the mean
    over B x L x L is that of the paper's ``RkdDistance_token`` (SeRKD, arXiv:2503.21269, section V-B).

    Choices where the listing gives no number: a single token (L = 1) has no pair, so the loss is 0, where the listing
    divides 0 by 0. Equal tokens keep the listing's floor of 1e-6 under a distance and have zero gradient.

    Args:
        student: Tokens ``(B, L, C_s)`` of any floating dtype; computed in float32 or better.
        teacher: Tokens ``(B, L, C_t)``; receives no gradient.

    Returns:
        The 0-d loss, in the student's dtype promoted to at least float32.

    Raises:
        ValueError: The two sides are not 3-D, or differ in B or L.
    """
    return relation_loss(_losses_and_gradient, student, teacher)


@torch.no_grad()
def normalized_distances(tokens: torch.Tensor) -> torch.Tensor:
    """Compute the distance between every two tokens over the mean distance: the potential psi_D of equations 1 and 10.

    It has no gradient; for pictures and reports.

    Args:
        tokens: Tokens ``(B, L, C)``.

    Returns:
        ``(B, L, L)`` in the dtype of ``tokens``, with a zero diagonal.
    """
    distances, mean, _ = _distances(squared_distances(tokens))
    return distances / mean


def _losses_and_gradient(student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses ``(B,)`` between squared distances, and their gradient ``(B, L, L)`` with respect to the student's."""
    distances, mean, constant = _distances(student)
    target, target_mean, _ = _distances(teacher)
    psi = distances / mean
    difference = psi - target.div_(target_mean)
    slope = difference.clamp(-1, 1)
    # The Huber loss is h' (difference - h' / 2).
    losses = difference.sub_(slope, alpha=0.5).mul_(slope).mean(dim=(1, 2))
    through_mean = (slope * psi).sum(dim=(1, 2), keepdim=True) / _num_pairs(student.shape[1])
    gradient = slope.sub_(through_mean).div_(distances.mul_(2 * mean)).masked_fill_(constant, 0.0)
    return losses, gradient.div_(student.shape[1] ** 2)


def _distances(squared: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distances ``(B, L, L)``, their mean ``(B, 1, 1)`` over pairs, and a mask of clamped and diagonal entries.

    Clamped and diagonal entries are constants: zero gradient.
    """
    constant = squared < _MIN_SQUARED_DISTANCE
    distances = squared.clamp(min=_MIN_SQUARED_DISTANCE).sqrt_()
    for tensor, value in ((distances, 0.0), (constant, True)):
        tensor.diagonal(dim1=1, dim2=2).fill_(value)
    mean = distances.sum(dim=(1, 2), keepdim=True) / _num_pairs(squared.shape[1])
    return distances, mean.clamp_(min=_MIN_SQUARED_DISTANCE), constant


def _num_pairs(num_tokens: int) -> int:
    """Ordered pairs of different tokens; 1 for a single token, whose sums are 0."""
    return max(num_tokens * (num_tokens - 1), 1)
