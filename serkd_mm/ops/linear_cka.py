"""Similarity of two representations of the same rows: linear centered kernel alignment (CKA)."""

import torch

from .precision import at_least_float32, autocast_off

# Share of its norm that rounding leaves of a matrix of equal rows after its mean is subtracted, with a margin.
_ROUNDING = 1e-6


@torch.no_grad()
def linear_cka(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    r"""Compute linear CKA (Kornblith et al., arXiv:1905.00414) between two sets of features of the same rows.

    .. math:: \mathrm{CKA} = \frac{\|X^T Y\|_F^2}{\|X^T X\|_F \, \|Y^T Y\|_F}

    X and Y are the features minus their mean over the rows. The result does not depend on rotations, on offsets or on the
    scale of either side. It is computed in feature space, in O(N C^2) time and O(N C) memory, and in float32 or better.

    Args:
        student: Features ``(N, C_s)``.
        teacher: Features ``(N, C_t)``.

    Returns:
        A number from 0 to 1, 0-d, without a graph; 0 if all rows of a side are equal, up to rounding.

    Raises:
        ValueError: The inputs are not matrices with the same number of rows.
    """
    if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher):
        raise ValueError(
            f'linear_cka compares features (N, C_s) with (N, C_t) of the same N rows, but got {tuple(student.shape)} and '
            f'{tuple(teacher.shape)}'
        )
    with autocast_off(student):
        x, y = _centered(student), _centered(teacher)
        scale = (x.mT @ x).norm() * (y.mT @ y).norm()
        shared = (x.mT @ y).square().sum()
        return torch.where(scale == 0, torch.zeros_like(shared), shared / scale)


def _centered(features: torch.Tensor) -> torch.Tensor:
    """Features minus their mean, of norm 1; 0 if all rows are equal."""
    features = at_least_float32(features)
    centered = features - features.mean(dim=0)
    norm = centered.norm()
    return torch.where(norm > _ROUNDING * features.norm(), centered / norm, torch.zeros_like(centered))
