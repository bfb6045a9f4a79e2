"""The fewest numbers that keep all distances and angles between the tokens of an image.

Both relation losses depend on the teacher's tokens x_0 ... x_(L-1) only through their squared distances. A shift and a
rotation change none of them:

    (x_1 - x_0, ..., x_(L-1) - x_0) = Q R        z_0 = 0, z_i = column i of R

R is upper triangular, so z_i has i numbers that are not 0: 49 tokens of 768 channels take 1,176 numbers instead of 37,632.
The scale does not matter to the losses either; the largest number is brought to [0.5, 1), so that float16 does not overflow.
"""

import torch

from .squared_distances import squared_distances


def triangle_size(num_tokens: int, num_channels: int) -> int:
    """Count the numbers of an isometric triangle: L (L - 1) / 2 if C >= L - 1, and fewer for fewer channels."""
    rank = min(num_tokens - 1, num_channels)
    return rank * (rank + 1) // 2 + (num_tokens - 1 - rank) * rank


@torch.no_grad()
def isometric_triangle(tokens: torch.Tensor) -> torch.Tensor:
    """Shift and rotate the tokens of each image such that the matrix of their coordinates is lower triangular.

    The coordinates are divided by a power of two, one for each image. Tokens that the relation losses count as equal (see
    :func:`serkd_mm.ops.squared_distances.squared_distances`) get bit-equal coordinates.

    The triangle of an image is unique only up to rounding: where tokens are close to a common subspace, coordinates that
    differ may describe the same distances. Compare the distances.

    Args:
        tokens: Tokens ``(B, L, C)`` of any floating dtype; computed in float64.

    Returns:
        ``(B, n)`` in float64 with n of :func:`triangle_size`: row by row, token i with min(i, C) numbers.

    Raises:
        ValueError: The tokens are not 3-D, or not finite.
    """
    if tokens.ndim != 3:
        raise ValueError(f'an isometric triangle is made of tokens (B, L, C), but got shape {tuple(tokens.shape)}')
    if not tokens.isfinite().all():
        raise ValueError('the tokens are not finite: they hold NaN or infinity')
    tokens = tokens.double()
    shifted = tokens - tokens[:, :1]
    rotated = torch.zeros_like(tokens[:, :, : min(tokens.shape[1] - 1, tokens.shape[2])])
    rotated[:, 1:] = torch.linalg.qr(shifted[:, 1:].mT, mode='r').R.mT
    rotated = _copy_equal(rotated, squared_distances(tokens) == 0)
    rows, columns = _lower_triangle(rotated)
    return _scaled(rotated[:, rows, columns])


def tokens_from_triangle(values: torch.Tensor, num_tokens: int, num_channels: int) -> torch.Tensor:
    """Return tokens with the relations of those that the triangle was made of.

    Args:
        values: Triangle ``(B, n)``, of any dtype.
        num_tokens: Number of tokens L.
        num_channels: Number of channels C of the original tokens.

    Returns:
        Tokens ``(B, L, min(L - 1, C))`` in the dtype of ``values``.
    """
    tokens = values.new_zeros(len(values), num_tokens, min(num_tokens - 1, num_channels))
    rows, columns = _lower_triangle(tokens)
    tokens[:, rows, columns] = values
    return tokens


def _lower_triangle(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Token and channel of each number of the triangle; the first token has none."""
    rows, columns = torch.tril_indices(tokens.shape[1] - 1, tokens.shape[2], device=tokens.device)
    return rows + 1, columns


def _copy_equal(tokens: torch.Tensor, equal: torch.Tensor) -> torch.Tensor:
    """Replace tokens by the first token that they are equal to, directly or by way of others."""
    for _ in range(equal.shape[1].bit_length()):  # Chains of equal tokens: each product doubles their length.
        equal = (equal.to(tokens) @ equal.to(tokens)) > 0
    first = equal.to(torch.uint8).argmax(dim=2)
    return tokens.gather(1, first[:, :, None].expand_as(tokens))


def _scaled(values: torch.Tensor) -> torch.Tensor:
    """Multiply each row by the power of two that brings its largest magnitude to [0.5, 1); zeros stay."""
    if not values.shape[1]:
        return values
    largest = values.abs().amax(dim=1, keepdim=True)
    # The mantissa over the number is the power, without rounding.
    return values * (torch.frexp(largest).mantissa / largest).masked_fill(largest == 0, 1.0)
