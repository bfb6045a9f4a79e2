"""The angle-wise relation loss, equation 11; equals :func:`serkd_mm.ops.reference.angle_relation_loss`.

With D_ij the squared distance of tokens i and j, and r_ij the inverse of their distance, the cosine at vertex i is

    c_ijk = (D_ij + D_ik - D_jk) r_ij r_ik / 2

The gradient with respect to D is accumulated together with the value, block by block, so nothing of size B x L^3 is stored.
With h'_ijk the derivative of the Huber loss and w_ijk = h'_ijk r_ij r_ik / 2,

    dL/dD_ij += 2 sum_k w_ijk - r_ij^2 sum_k h'_ijk c_ijk          dL/dD_jk -= sum_i w_ijk
"""

import os
import warnings
from collections.abc import Iterator
from functools import cache, partial
from importlib.util import find_spec
from itertools import combinations, combinations_with_replacement
from typing import NamedTuple

import torch
from torch import Tensor

from .precision import at_least_float32, most_exact
from .squared_distances import relation_loss

# Angles per block: on a CPU as many as fit its caches, on a GPU enough to occupy it.
_BLOCK_SIZE = {'cpu': 2**18, 'cuda': 2**25}
# The tokens j and k are cut into two parts. Angles (j, k) and (k, j) are equal, so one of the two mixed blocks is skipped.
_NUM_PARTS = 2
_TRITON_IS_INSTALLED = find_spec('triton') is not None


class AngleSums(NamedTuple):
    """Sums over all angles of which the loss and its gradient are made; see the module's docstring for the symbols.

    Attributes:
        huber: Huber losses summed over the angles of each image, ``(B,)``.
        weight_over_vertices: sum_i w_ijk at (j, k), ``(B, L, L)``.
        weight_over_ends: sum_k w_ijk at (i, j), ``(B, L, L)``.
        slope_cosine_over_ends: sum_k h'_ijk c_ijk at (i, j), ``(B, L, L)``.
    """

    huber: Tensor
    weight_over_vertices: Tensor
    weight_over_ends: Tensor
    slope_cosine_over_ends: Tensor


def angle_relation_loss(student: Tensor, teacher: Tensor, min_distance: float = 0.0) -> Tensor:
    r"""Compare the cosines of the angles at every token between every two others, equation 11.

    .. math::
        \mathcal L_{RA} = \frac{1}{B L^3} \sum_{b,i,j,k} l_1\big(\cos \angle (s_j s_i s_k), \cos \angle (s'_j s'_i s'_k)\big)

    l_1 is the Huber loss with delta 1; the mean over B x L x L x L is that of the paper's ``RKdAngle_token`` (SeRKD,
    arXiv:2503.21269, section V-B).

    Choice: between equal tokens i and j there is no direction. As in the listing the cosine is 0. Its gradient is 0 too,
    where the listing multiplies it by 1e12, the inverse of its epsilon.

    The gradient grows as the inverse of the distance of the closest tokens. ``min_distance`` bounds it: cosines are divided
    by distances that are at least this share of the image's mean distance, on both sides. The floor is a constant for the
    gradient. It changes the paper's loss.

    Args:
        student: Tokens ``(B, L, C_s)`` of any floating dtype; computed in float32 or better.
        teacher: Tokens ``(B, L, C_t)``; receives no gradient.
        min_distance: Floor under the distances, as a share of the image's mean distance. Default: 0, the paper's loss.

    Returns:
        The 0-d loss, in the student's dtype promoted to at least float32.

    Raises:
        ValueError: The two sides are not 3-D, or differ in B or L.
    """
    mixed = at_least_float32(student).dtype == torch.float32
    compare = partial(_losses_and_gradient, min_distance=min_distance, mixed=mixed)
    return relation_loss(compare, student, teacher)


def use_triton(tensor: Tensor) -> bool:
    """Decide whether the Triton kernel computes the sums: by default for tensors on a GPU that the kernel runs on.

    The kernel is tried once for each GPU, on a few tokens. If it does not run there, for example without a C compiler, a
    warning says so, and PyTorch computes the sums. The environment variable ``SERKD_MM_TRITON`` overrides both: ``0`` never,
    ``1`` always, also for tensors on a CPU, with Triton's interpreter (``TRITON_INTERPRET=1``).

    Raises:
        ValueError: The variable has another value.
    """
    setting = os.environ.get('SERKD_MM_TRITON', 'auto')
    if setting not in ('0', '1', 'auto'):
        raise ValueError(f"SERKD_MM_TRITON must be '0', '1' or 'auto', but is {setting!r}")
    return setting == '1' or (setting == 'auto' and tensor.is_cuda and triton_runs(tensor.device))


@cache
def triton_runs(device: torch.device) -> bool:
    """Try the Triton kernel on four tokens; warn and return False if it fails. Tried once for each device."""
    if not _TRITON_IS_INSTALLED:
        return False
    squared = (1 - torch.eye(4, device=device))[None]
    try:
        from .angle_relation_triton import angle_sums  # noqa: PLC0415 (Triton is not installed everywhere)

        works = bool(angle_sums(*[squared] * 4).weight_over_ends.isfinite().all())
        reason = 'its result is not finite'
    except Exception as error:  # Compiler, driver, cache folder: each raises errors of its own.
        works, reason = False, f'{type(error).__name__}: {str(error).strip()}'
    if not works:
        warnings.warn(
            f'The Triton kernel of the angle loss does not run on {device}, so PyTorch computes the loss, which takes '
            f'longer. SERKD_MM_TRITON=0 silences this warning. {reason}',
            stacklevel=2,
        )
    return works


def _losses_and_gradient(student: Tensor, teacher: Tensor, min_distance: float, mixed: bool) -> tuple[Tensor, Tensor]:
    """The losses ``(B,)`` between squared distances, and their gradient ``(B, L, L)`` with respect to the student's.

    ``mixed`` lets the Triton kernel choose float32 or float64 for each image, as :mod:`squared_distances` does on a CPU.
    """
    if mixed and use_triton(student):
        from .angle_relation_triton import angle_sums  # noqa: PLC0415 (Triton is not installed everywhere)
    else:
        angle_sums = blockwise_angle_sums
    inverse, constant = _inverse_distances(student, min_distance)
    sums = angle_sums(student, teacher, inverse, _inverse_distances(teacher, min_distance)[0])
    gradient = sums.weight_over_ends.mul_(2).sub_(sums.weight_over_vertices)
    gradient.sub_(sums.slope_cosine_over_ends.mul_(inverse.square_()).masked_fill_(constant, 0.0))
    num_angles = student.shape[1] ** 3
    return sums.huber / num_angles, gradient.div_(num_angles)


def blockwise_angle_sums(student: Tensor, teacher: Tensor, inverse: Tensor, teacher_inverse: Tensor) -> AngleSums:
    """Sum over all angles, a block at a time.

    Args:
        student: Squared distances ``(B, L, L)``, symmetric; 0 between equal tokens.
        teacher: Squared distances ``(B, L, L)``.
        inverse: Inverse distances ``(B, L, L)`` of the student's tokens; 0 between equal ones.
        teacher_inverse: Inverse distances ``(B, L, L)`` of the teacher's tokens.
    """
    sides = [(squared, r, r / 2) for squared, r in ((student, inverse), (teacher, teacher_inverse))]
    over_vertices, over_ends, slope_cosine = (torch.zeros_like(student) for _ in range(3))
    huber_sums = student.new_zeros(len(student), dtype=most_exact(student))
    for images, vertices, j, k in _blocks(*student.shape[:2], student.device.type):
        cosines, target = (_cosines(*side, images, vertices, j, k) for side in sides)
        difference = torch.sub(cosines, target, out=target)
        slope = difference.clamp(-1, 1)
        huber = difference.sub_(slope, alpha=0.5).flatten(1)  # Times the slope, summed by the product of vectors.
        huber_sums[images] += (huber[:, None] @ slope.flatten(1)[..., None]).flatten() * (1 if j == k else 2)
        product = cosines.mul_(slope)
        weight = slope.mul_(inverse[images, vertices, j, None]).mul_(inverse[images, vertices, None, k] / 2)
        for sums, terms in ((over_ends, weight), (slope_cosine, product)):
            sums[images, vertices, j] += terms.sum(dim=3)
            if j != k:
                sums[images, vertices, k] += terms.sum(dim=2)
        over_vertices[images, j, k] += weight.sum(dim=1)
    for j, k in combinations(_parts(student.shape[1]), 2):
        over_vertices[:, k, j] = over_vertices[:, j, k].mT
    return AngleSums(huber_sums, over_vertices, over_ends, slope_cosine)


def _cosines(squared: Tensor, inverse: Tensor, half: Tensor, images: slice, vertices: slice, j: slice, k: slice) -> Tensor:
    """Cosines ``(images, vertices, j, k)`` of a block from D, r and r / 2, each ``(B, L, L)``.

    Equal at (j, k) and (k, j) but for the products' rounding: a difference between them would grow with both r_ij and r_ik.
    """
    from_vertex = squared[images, vertices]
    cosines = from_vertex[..., j, None] + from_vertex[..., None, k]
    cosines.sub_(squared[images, None, j, k])
    return cosines.mul_(inverse[images, vertices, j, None]).mul_(half[images, vertices, None, k])


def _inverse_distances(squared: Tensor, min_distance: float) -> tuple[Tensor, Tensor]:
    """One over the distance of every two tokens ``(B, L, L)``, 0 between equal tokens; and a mask of constant entries."""
    constant = squared == 0
    if not min_distance:
        return squared.rsqrt().masked_fill_(constant, 0.0), constant
    num_tokens = squared.shape[1]
    mean = squared.sqrt().sum(dim=(1, 2), keepdim=True) / max(num_tokens * (num_tokens - 1), 1)
    floor = (min_distance * mean).square_()
    return squared.clamp(min=floor).rsqrt_().masked_fill_(constant, 0.0), squared < floor


def _blocks(batch: int, num_tokens: int, device: str) -> Iterator[tuple[slice, slice, slice, slice]]:
    """Images, vertices i, tokens j and tokens k of each block; of two different parts of the tokens, one order only."""
    parts = _parts(num_tokens)
    size = max(_BLOCK_SIZE.get(device, _BLOCK_SIZE['cpu']) // parts[0].stop ** 2, 1)
    num_vertices, num_images = min(size, num_tokens), max(size // num_tokens, 1)
    for image in range(0, batch, num_images):
        for vertex in range(0, num_tokens, num_vertices):
            for j, k in combinations_with_replacement(parts, 2):
                yield slice(image, image + num_images), slice(vertex, vertex + num_vertices), j, k


def _parts(num_tokens: int) -> list[slice]:
    """The tokens in parts of equal size, except the last."""
    size = -(-num_tokens // _NUM_PARTS)
    return [slice(first, min(first + size, num_tokens)) for first in range(0, num_tokens, size)]
