"""The distance loss from Gram matrices, with its gradient in closed form: it is computed with the value, and kept alone.

With D_ij = G_ii + G_jj - 2 G_ij the squared distances, d = sqrt(D) and m the mean of d over the pairs of an image, the loss
compares psi = d / m. With h' the derivative of the Huber loss,

    dL/dd_ij = (h'_ij - sum_kl h'_kl psi_kl / pairs) / m        dL/dD_ij = dL/dd_ij / (2 d_ij)

and D is linear in G.
"""

import torch

from .known_gradient import with_gradient

# The listing's floor under squared distances.
_MIN_SQUARED_DISTANCE = 1e-12


def closed_form_distance_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean Huber loss (delta 1) between the distances of both sides, each divided by its mean over pairs of tokens.

    Args:
        student: Gram matrices ``(B, L, L)`` of the student's tokens, symmetric.
        teacher: Gram matrices ``(B, L, L)`` of the teacher's; receives no gradient.

    Returns:
        The 0-d loss; it can be differentiated once.
    """
    return with_gradient(student, *_value_and_gradient(student, teacher))


@torch.no_grad()
def _value_and_gradient(student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and its gradient ``(B, L, L)`` with respect to the student's Gram matrices."""
    distances, mean, floored = _distances(student)
    target, target_mean, _ = _distances(teacher)
    psi = distances / mean
    difference = psi - target.div_(target_mean)
    slope = difference.clamp(-1, 1)
    loss = difference.sub_(slope, alpha=0.5).mul_(slope).mean()  # Huber: h' (d - h' / 2)
    through_mean = (slope * psi).sum(dim=(1, 2), keepdim=True) / _num_pairs(student.shape[1])
    # Of the floor under a distance, and of the diagonal, nothing depends on the tokens.
    by_squared = slope.sub_(through_mean).div_(2 * mean * distances).masked_fill_(floored, 0.0)
    gradient = -2 * by_squared
    gradient.diagonal(dim1=1, dim2=2).add_(by_squared.sum(dim=1) + by_squared.sum(dim=2))
    return loss, gradient / student.numel()


def _distances(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distances ``(B, L, L)``, their mean ``(B, 1, 1)`` over pairs, and which of them are no function of the tokens."""
    norms = gram.diagonal(dim1=1, dim2=2)
    squared = torch.sub(norms[:, :, None] + norms[:, None, :], gram, alpha=2)
    floored = squared < _MIN_SQUARED_DISTANCE
    distances = squared.clamp_(min=_MIN_SQUARED_DISTANCE).sqrt_()
    for mask, value in ((distances, 0.0), (floored, True)):
        mask.diagonal(dim1=1, dim2=2).fill_(value)
    mean = distances.sum(dim=(1, 2), keepdim=True) / _num_pairs(gram.shape[1])
    return distances, mean.clamp_(min=_MIN_SQUARED_DISTANCE), floored


def _num_pairs(num_tokens: int) -> int:
    """Ordered pairs of different tokens; 1 where there is a single token, whose sums are 0."""
    return max(num_tokens * (num_tokens - 1), 1)
