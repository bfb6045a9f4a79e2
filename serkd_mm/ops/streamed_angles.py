"""The angle loss from Gram matrices, value and gradient in one pass, without anything of size B x L^3.

With r_ij the inverse distance of tokens i and j, the cosine at vertex i is

    c_jk = (G_jk - G_ij - G_ik + G_ii) r_ij r_ik

The loss is a scalar, so its gradient with respect to G is as well accumulated while its value is: vertex block by vertex
block, with h' the derivative of the Huber loss,

    dL/dG_jk += h'_jk r_ij r_ik         dL/dG_ij -= 2 r_ij sum_k h'_jk r_ik         dL/dG_ii += sum_jk h'_jk r_ij r_ik

and through r_ij, which depends on the squared distance D_ij = G_ii + G_jj - 2 G_ij, dL/dD_ij -= r_ij^2 sum_k h'_jk c_jk.
"""

import os
from collections.abc import Iterator
from importlib.util import find_spec

import torch

from .known_gradient import with_gradient

# Angles that are held at a time: on a CPU as many as its caches hold, on a GPU enough to keep it busy.
_BLOCK_SIZE = {'cpu': 2**18, 'cuda': 2**25}
# Parts that the tokens j are cut into, so that of the angles (j, k) and (k, j), which are equal, mostly one is computed.
_NUM_PARTS = 2
# Two tokens closer than 1e-6 of their norm are one: float32 can not tell them apart, and knows no direction between them.
_EQUAL_TOKENS = 1e-12


def streamed_angle_loss(student: torch.Tensor, teacher: torch.Tensor, exact: bool = False) -> torch.Tensor:
    """Mean Huber loss (delta 1) between the cosines at every vertex i between tokens j and k.

    Args:
        student: Gram matrices ``(B, L, L)`` of the student's tokens, symmetric.
        teacher: Gram matrices ``(B, L, L)`` of the teacher's; receives no gradient.
        exact: Compute everything in the format of the matrices. By default only the differences of a matrix are, which
            need it, and cosines and what follows them are float32.

    Returns:
        The 0-d loss; it can be differentiated once.
    """
    return with_gradient(student, *_value_and_gradient(student, teacher, exact))


@torch.no_grad()
def _value_and_gradient(student: torch.Tensor, teacher: torch.Tensor, exact: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and its gradient ``(B, L, L)`` with respect to the student's Gram matrices."""
    batch, num_tokens, _ = student.shape
    inputs = student, teacher, _inverse_distances(student), _inverse_distances(teacher)
    if not exact and use_kernel(student):
        from .angle_kernel import kernel_angle_sums  # noqa: PLC0415 (Triton is not installed everywhere)

        total, gradient, row_sums, through_distance = kernel_angle_sums(*inputs)
    else:
        total, gradient, row_sums, through_distance = angle_sums(*inputs, student.dtype if exact else torch.float32)
    gradient += 2 * through_distance - 2 * row_sums  # D_ij = ... - 2 G_ij, and dL/dD_ij is minus this
    diagonal = row_sums.sum(dim=2) - through_distance.sum(dim=2) - through_distance.sum(dim=1)
    gradient.diagonal(dim1=1, dim2=2).add_(diagonal)
    num_angles = batch * num_tokens**3
    return total / num_angles, gradient / num_angles


def use_kernel(gram: torch.Tensor) -> bool:
    """Whether the Triton kernel computes the sums: for tensors on a GPU, where Triton is installed.

    The environment variable ``SERKD_MM_TRITON`` decides otherwise: ``0`` never, ``1`` always, also for tensors on a CPU,
    with Triton's interpreter (``TRITON_INTERPRET=1``).

    Raises:
        ValueError: The variable has another value.
    """
    setting = os.environ.get('SERKD_MM_TRITON', 'auto')
    if setting not in ('0', '1', 'auto'):
        raise ValueError(f"SERKD_MM_TRITON must be '0', '1' or 'auto', but is {setting!r}")
    return setting == '1' or (setting == 'auto' and gram.is_cuda and find_spec('triton') is not None)


def angle_sums(
    student: torch.Tensor,
    teacher: torch.Tensor,
    inverse: torch.Tensor,
    teacher_inverse: torch.Tensor,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The sums over all angles that loss and gradient are made of, before their mean is taken.

    Args:
        student: Gram matrices ``(B, L, L)``.
        teacher: Gram matrices ``(B, L, L)``.
        inverse: Inverse distances ``(B, L, L)`` of the student's tokens.
        teacher_inverse: Inverse distances ``(B, L, L)`` of the teacher's tokens.
        dtype: Format of cosines and what follows them.

    Returns:
        The Huber losses of all angles, 0-d, and three ``(B, L, L)``: over vertices i, sum h'_jk r_ij r_ik at (j, k); and at
        (i, j), r_ij sum_k h'_jk r_ik and r_ij^2 sum_k h'_jk c_jk.
    """
    num_tokens = student.shape[1]
    total = student.new_zeros(())
    gradient, row_sums, products = (torch.zeros_like(student) for _ in range(3))
    for images, vertices in _blocks(*student.shape[:2], student.device.type):
        r, r_teacher = inverse[images, vertices], teacher_inverse[images, vertices]
        for first, last in _parts(num_tokens):
            # Tokens j are one part, tokens k that part and those after it; the latter are met as (k, j) as well.
            later = slice(last - first, None)
            cosines = _cosines(student[images], vertices, r, first, last).to(dtype)
            target = _cosines(teacher[images], vertices, r_teacher, first, last).to(dtype)
            difference = torch.sub(cosines, target, out=target)
            slope = difference.clamp(-1, 1)
            huber = difference.sub_(slope, alpha=0.5).mul_(slope)  # h' (d - h' / 2)
            total += huber.sum() + huber[..., later].sum()
            cosines *= slope
            products[images, vertices, first:last] += cosines.sum(dim=3)
            products[images, vertices, last:] += cosines[..., later].sum(dim=2)
            slope *= r[..., first:last, None].to(dtype)
            slope *= r[..., None, first:].to(dtype)
            row_sums[images, vertices, first:last] += slope.sum(dim=3)
            row_sums[images, vertices, last:] += slope[..., later].sum(dim=2)
            gradient[images, first:last, first:] += slope.sum(dim=1)
    for first, last in _parts(num_tokens):
        gradient[:, last:, first:last] = gradient[:, first:last, last:].mT
    return total, gradient, row_sums, inverse.square() * products


def _inverse_distances(gram: torch.Tensor) -> torch.Tensor:
    """One over the distance of every two tokens ``(B, L, L)``; 0 where they are equal, so that they have no direction."""
    norms = gram.diagonal(dim1=1, dim2=2)
    sums = norms[:, :, None] + norms[:, None, :]
    squared = sums - 2 * gram
    equal = squared <= _EQUAL_TOKENS * sums
    return squared.masked_fill(equal, 1.0).rsqrt().masked_fill(equal, 0.0)


def _cosines(gram: torch.Tensor, vertices: slice, inverse: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Cosines ``(B', I, last - first, L - first)`` at some vertices, tokens j from ``first`` to ``last``, k from ``first``.

    Args:
        gram: Gram matrices ``(B', L, L)`` of some images.
        vertices: The vertices i.
        inverse: Inverse distances ``(B', I, L)`` from them.
        first: The first token j, and k.
        last: One after the last token j.
    """
    own = gram.diagonal(dim1=1, dim2=2)[:, vertices, None]
    offset = inverse * (gram[:, vertices] - own / 2)  # (G_ij + G_ik - G_ii) r_j r_k is offset_j r_k + offset_k r_j
    r_j, r_k = inverse[..., first:last, None], inverse[..., None, first:]
    cosines = torch.addcmul(-offset[..., first:last, None], gram[:, None, first:last, first:], r_j)
    return cosines.mul_(r_k).addcmul_(offset[..., None, first:], r_j, value=-1)


def _parts(num_tokens: int) -> list[tuple[int, int]]:
    """First and one after the last token of each part."""
    size = -(-num_tokens // _NUM_PARTS)
    return [(first, min(first + size, num_tokens)) for first in range(0, num_tokens, size)]


def _blocks(batch: int, num_tokens: int, device: str) -> Iterator[tuple[slice, slice]]:
    """Images and vertices, as many at a time as a block has room for."""
    room = max(_BLOCK_SIZE.get(device, _BLOCK_SIZE['cpu']) // num_tokens**2, 1)
    num_vertices = min(room, num_tokens)
    num_images = max(room // num_tokens, 1)
    for image in range(0, batch, num_images):
        for vertex in range(0, num_tokens, num_vertices):
            yield slice(image, image + num_images), slice(vertex, vertex + num_vertices)
