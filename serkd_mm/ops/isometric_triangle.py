"""The fewest numbers that keep all distances and angles between the tokens of an image.

Both relation losses depend on the teacher's tokens x_0 ... x_(L-1) only through their squared distances. A shift and a
rotation change none of them:

    (x_1 - x_0, ..., x_(L-1) - x_0) = Q R        z_0 = 0, z_i = column i of R

R is upper triangular, so z_i has i numbers that are not 0: 49 tokens of 768 channels take 1,176 numbers instead of 37,632.
The scale does not matter to the losses either; the largest number is brought to [0.5, 1), so that float16 does not overflow.

Far from the origin, float16 has fewer digits for all tokens. So the most central token takes the place of token 0 (and
token 0 its place), and not an outlier. Which one it was is stored in the signs of the first numbers of the diagonal of R:
mirroring changes no distance, so the signs are free.
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
    squared = squared_distances(tokens)
    rank = min(tokens.shape[1] - 1, tokens.shape[2])
    origin = squared[:, : _num_origins(tokens.shape[1], rank)].sqrt().sum(dim=2).argmin(dim=1)
    order = _swap_first(origin, tokens.shape[1])
    tokens, equal = _select(tokens, order), _select(_select(squared == 0, order).mT, order)
    coordinates = torch.zeros_like(tokens[:, :, :rank])
    coordinates[:, 1:] = torch.linalg.qr((tokens[:, 1:] - tokens[:, :1]).mT, mode='r').R.mT
    coordinates = _store_origin(_copy_equal(coordinates, equal), origin)
    rows, columns = _lower_triangle(coordinates)
    return _scaled(coordinates[:, rows, columns])


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
    return _select(tokens, _swap_first(_stored_origin(tokens), num_tokens))


def _lower_triangle(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Token and channel of each number of the triangle; the first token has none."""
    rows, columns = torch.tril_indices(tokens.shape[1] - 1, tokens.shape[2], device=tokens.device)
    return rows + 1, columns


def _select(tokens: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Reorder the tokens ``(B, L, C)`` of each image by indices ``(B, L)``."""
    return tokens.gather(1, order[:, :, None].expand_as(tokens))


def _swap_first(others: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Indices ``(B, L)`` that swap the first token and the one of the index ``(B,)``."""
    order = torch.arange(num_tokens, device=others.device).repeat(len(others), 1)
    order[:, 0] = others
    return order.scatter(1, others[:, None], 0)


def _num_origins(num_tokens: int, rank: int) -> int:
    """Number of tokens that the signs of the diagonal can tell apart."""
    return min(num_tokens, 2 ** _num_signs(num_tokens, rank))


def _num_signs(num_tokens: int, rank: int) -> int:
    """Number of signs that the index of the origin is stored in: all tokens, unless there are very few channels."""
    return min(rank, (num_tokens - 1).bit_length())


def _store_origin(tokens: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
    """Mirror the first channels such that the signs of their diagonal, also of zeros, are the bits of an index ``(B,)``."""
    signs = _diagonal_signs(tokens)
    bits = origin[:, None] >> torch.arange(signs.shape[1], device=origin.device) & 1
    mirror = torch.ones_like(tokens[:, 0])
    mirror[:, : signs.shape[1]] = torch.where(signs == bits, 1.0, -1.0)
    return tokens * mirror[:, None]


def _stored_origin(tokens: torch.Tensor) -> torch.Tensor:
    """The index ``(B,)`` that :func:`_store_origin` has stored."""
    signs = _diagonal_signs(tokens)
    return (signs << torch.arange(signs.shape[1], device=tokens.device)).sum(dim=1)


def _diagonal_signs(tokens: torch.Tensor) -> torch.Tensor:
    """1 where the number that token k + 1 has in channel k is negative or -0; of the first channels, ``(B, k)``."""
    diagonal = tokens[:, 1:].diagonal(dim1=1, dim2=2)
    return diagonal[:, : _num_signs(*tokens.shape[1:])].signbit().long()


def _copy_equal(tokens: torch.Tensor, equal: torch.Tensor) -> torch.Tensor:
    """Replace tokens by the first token that they are equal to, directly or by way of others."""
    for _ in range(equal.shape[1].bit_length()):  # Chains of equal tokens: each product doubles their length.
        equal = (equal.to(tokens) @ equal.to(tokens)) > 0
    first = equal.to(torch.uint8).argmax(dim=2)
    return _select(tokens, first)


def _scaled(values: torch.Tensor) -> torch.Tensor:
    """Multiply each row by the power of two that brings its largest magnitude to [0.5, 1); zeros stay."""
    if not values.shape[1]:
        return values
    largest = values.abs().amax(dim=1, keepdim=True)
    # The mantissa over the number is the power, without rounding.
    return values * (torch.frexp(largest).mantissa / largest).masked_fill(largest == 0, 1.0)
