"""Squared distances between the tokens of an image, and losses that depend on the tokens through them alone.

Both relation losses are functions of the squared distances D, which follow from the Gram matrix G of the centered tokens:

    D_ij = |x_j - x_i|^2            = G_ii + G_jj - 2 G_ij
    <x_j - x_i, x_k - x_i>          = (D_ij + D_ik - D_jk) / 2

Memory is O(B L^2). Both lines subtract large numbers from each other, which loses digits between close tokens i and j. The
gradients with respect to D_ik and D_jk are then large, and nearly cancel in every other token k. So an image with close
tokens is computed in float64, all others in float32. A GPU, which would have to be waited for to know them, computes all in
float64 except the sums over angles. The losses are scalars: their gradient with respect to D, and through D with respect to
the tokens, is computed together with the value, and only the last is stored.
"""

from collections.abc import Callable

import torch

from .precision import at_least_float32, autocast_off, float32_products_are_exact, most_exact, reads_are_free
from .precomputed_gradient import attach_gradient

# Tokens closer than 1e-6 of their norm are equal: float32 cannot resolve a direction between them.
_EQUAL_TOKENS = 1e-12
# Float32 is enough for an image whose distances are all larger than 3e-2 of the largest one.
_CLOSE_TOKENS = 1e-3
# And for squared distances that are larger than this: smaller ones lose digits in float32 whatever their ratio.
_SMALL_DISTANCES = 1e-30

LossesAndGradient = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def relation_loss(compare: LossesAndGradient, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Evaluate a loss between squared distances as a function of the student's tokens.

    Args:
        compare: Maps the squared distances ``(B, L, L)`` of student and teacher to the losses of the images ``(B,)`` and to
            the gradient ``(B, L, L)`` of their sum with respect to the student's. It may overwrite its arguments.
        student: Tokens ``(B, L, C_s)`` of any floating dtype.
        teacher: Tokens ``(B, L, C_t)``; receives no gradient.

    Returns:
        The 0-d mean over the images, in the student's dtype promoted to at least float32.

    Raises:
        ValueError: The two sides are not 3-D, or differ in B or L.
    """
    if student.ndim != 3 or teacher.ndim != 3 or student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            'a relation loss compares tokens (B, L, C_s) with tokens (B, L, C_t) of equal B and L, '
            f'but got student {tuple(student.shape)} and teacher {tuple(teacher.shape)}'
        )
    dtype, exact = at_least_float32(student).dtype, most_exact(student)
    by_image = dtype != exact and reads_are_free(student) and float32_products_are_exact()
    with torch.no_grad(), autocast_off(student):
        losses, gradient, close = _evaluate(compare, student, teacher, dtype if by_image else exact, by_image)
        if close is not None and close.any():
            of_close = _evaluate(compare, student[close], teacher[close], exact)
            losses[close], gradient[close] = of_close[0].to(losses), of_close[1].to(gradient)
        value, gradient = losses.mean().to(dtype), gradient.div_(len(student)).to(dtype)
    return attach_gradient(student, value, gradient)


def squared_distances(tokens: torch.Tensor) -> torch.Tensor:
    """Compute the squared distance between every two tokens.

    Args:
        tokens: Tokens ``(B, L, C)``. Between close tokens the result is accurate only in float64.

    Returns:
        ``(B, L, L)`` in the dtype of ``tokens``; exactly 0 between equal tokens.
    """
    return _zero_between_equal(*_centered(tokens))


def _zero_between_equal(tokens: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    """Squared distances of tokens ``(B, L, C)`` from which the mean token ``(B, 1, C)`` was subtracted; 0 if equal."""
    squared, sums = _squared_distances(tokens)
    sums.add_(2 * center.square().sum(dim=2, keepdim=True))  # Of the order of the norms before the subtraction.
    return squared.masked_fill_(squared <= _EQUAL_TOKENS * sums, 0.0)


def _squared_distances(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared distances of centered tokens, also between equal ones, and the sums of both squared norms ``(B, L, L)``."""
    gram = tokens @ tokens.mT
    norms = gram.diagonal(dim1=1, dim2=2)
    sums = norms[:, :, None] + norms[:, None, :]
    return torch.sub(sums, gram, alpha=2), sums


def has_close_tokens(*sides: torch.Tensor) -> torch.Tensor:
    """Find the images that float32 is not enough for; a NaN counts as close.

    Args:
        sides: Squared distances ``(B, L, L)`` of student and teacher.

    Returns:
        Mask ``(B,)``.
    """
    return torch.stack([_has_close_tokens(squared) for squared in sides]).any(dim=0)


def _evaluate(
    compare: LossesAndGradient, student: torch.Tensor, teacher: torch.Tensor, dtype: torch.dtype, find_close: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The losses ``(B,)`` and the gradient of their sum ``(B, L, C_s)``.

    With ``find_close`` also a mask ``(B,)`` of images with close tokens, for which both are wrong; otherwise None.
    """
    sides = [_centered(side.to(dtype)) for side in (student, teacher)]
    tokens = sides[0][0]
    if find_close:
        squared, target = (_squared_distances(centered)[0] for centered, _ in sides)
        close = has_close_tokens(squared, target)
    else:
        squared, target = (_zero_between_equal(*side) for side in sides)
        close = None
    losses, gradient = compare(squared, target)
    return losses, _gradient_of_tokens(tokens, gradient), close


def _centered(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Subtract the mean token of the image, which changes no relation; and the mean token ``(B, 1, C)``."""
    center = tokens.mean(dim=1, keepdim=True)
    return tokens - center, center


def _has_close_tokens(squared: torch.Tensor) -> torch.Tensor:
    """Mask ``(B,)`` of the images with close tokens on one side."""
    others = squared.clone()
    others.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    largest = squared.amax(dim=(1, 2))
    return ~(others.amin(dim=(1, 2)) > (_CLOSE_TOKENS * largest).clamp_(min=_SMALL_DISTANCES))


def _gradient_of_tokens(tokens: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Chain rule from D to the tokens: sum_j 2 (g_ij + g_ji) (x_i - x_j) for a gradient g with respect to D."""
    both = 2 * (gradient + gradient.mT)
    return torch.baddbmm(both.sum(dim=2, keepdim=True) * tokens, both, tokens, alpha=-1)
