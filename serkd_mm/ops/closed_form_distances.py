"""The distance loss from squared distances, value and gradient in closed form.

With d = sqrt(D) and m the mean of d over the pairs of an image, the loss compares psi = d / m. With h' the derivative of the
Huber loss,

    dL/dd_ij = (h'_ij - sum_kl h'_kl psi_kl / pairs) / m        dL/dD_ij = dL/dd_ij / (2 d_ij)
"""

import torch

# The listing's floor under squared distances.
_MIN_SQUARED_DISTANCE = 1e-12


def closed_form_distance_loss(student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean Huber loss (delta 1) between the distances of both sides, each divided by its mean over pairs of tokens.

    Args:
        student: Squared distances ``(B, L, L)`` of the student's tokens.
        teacher: Squared distances ``(B, L, L)`` of the teacher's.

    Returns:
        The 0-d loss, and its gradient ``(B, L, L)`` with respect to ``student``.
    """
    distances, mean, floored = _distances(student)
    target, target_mean, _ = _distances(teacher)
    psi = distances / mean
    difference = psi - target.div_(target_mean)
    slope = difference.clamp(-1, 1)
    loss = difference.sub_(slope, alpha=0.5).mul_(slope).mean()  # Huber: h' (d - h' / 2)
    through_mean = (slope * psi).sum(dim=(1, 2), keepdim=True) / _num_pairs(student.shape[1])
    # Of the floor under a distance, and of the diagonal, nothing depends on the tokens.
    gradient = slope.sub_(through_mean).div_(2 * mean * distances).masked_fill_(floored, 0.0)
    return loss, gradient.div_(student.numel())


def _distances(squared: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distances ``(B, L, L)``, their mean ``(B, 1, 1)`` over pairs, and which of them are no function of the tokens."""
    floored = squared < _MIN_SQUARED_DISTANCE
    distances = squared.clamp(min=_MIN_SQUARED_DISTANCE).sqrt_()
    for tensor, value in ((distances, 0.0), (floored, True)):
        tensor.diagonal(dim1=1, dim2=2).fill_(value)
    mean = distances.sum(dim=(1, 2), keepdim=True) / _num_pairs(squared.shape[1])
    return distances, mean.clamp_(min=_MIN_SQUARED_DISTANCE), floored


def _num_pairs(num_tokens: int) -> int:
    """Ordered pairs of different tokens; 1 where there is a single token, whose sums are 0."""
    return max(num_tokens * (num_tokens - 1), 1)
