"""The angle loss from squared distances, value and gradient in one pass, without anything of size B x L^3.

With r_ij the inverse of the distance d_ij of tokens i and j, the cosine at vertex i is

    c_jk = (D_ij + D_ik - D_jk) r_ij r_ik / 2

The loss is a scalar, so its gradient with respect to D is accumulated while its value is, vertex block by vertex block.
With h' the derivative of the Huber loss and w_jk = h'_jk r_ij r_ik / 2,

    dL/dD_ij += 2 sum_k w_jk - r_ij^2 sum_k h'_jk c_jk          dL/dD_jk -= w_jk
"""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import combinations, combinations_with_replacement

import torch

from .precision import most_exact

# Angles that are held at a time: on a CPU as many as its caches hold, on a GPU enough to keep it busy.
_BLOCK_SIZE = {'cpu': 2**18, 'cuda': 2**25}
# Parts that the tokens are cut into, so that of the angles (j, k) and (k, j), which are equal, mostly one is computed.
_NUM_PARTS = 2


def streamed_angle_loss(student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean Huber loss (delta 1) between the cosines at every vertex i between tokens j and k.

    Args:
        student: Squared distances ``(B, L, L)`` of the student's tokens, symmetric; 0 between equal tokens.
        teacher: Squared distances ``(B, L, L)`` of the teacher's.

    Returns:
        The 0-d loss, and its gradient ``(B, L, L)`` with respect to ``student``.
    """
    if student.dtype == torch.float32 and use_kernel(student):
        from .angle_kernel import kernel_angle_sums as sums  # noqa: PLC0415 (Triton is not installed everywhere)
    else:
        sums = angle_sums
    inverse = _inverse_distances(student)
    loss, pairs, weights, products = sums(student, teacher, inverse, _inverse_distances(teacher))
    gradient = weights.mul_(2).sub_(products.mul_(inverse.square_())).sub_(pairs)
    num_angles = student.shape[0] * student.shape[1] ** 3
    return loss / num_angles, gradient.div_(num_angles)


def use_kernel(tensor: torch.Tensor) -> bool:
    """Whether the Triton kernel computes the sums: for tensors on a GPU, where Triton is installed.

    The environment variable ``SERKD_MM_TRITON`` decides otherwise: ``0`` never, ``1`` always, also for tensors on a CPU,
    with Triton's interpreter (``TRITON_INTERPRET=1``).

    Raises:
        ValueError: The variable has another value.
    """
    setting = os.environ.get('SERKD_MM_TRITON', 'auto')
    if setting not in ('0', '1', 'auto'):
        raise ValueError(f"SERKD_MM_TRITON must be '0', '1' or 'auto', but is {setting!r}")
    return setting == '1' or (setting == 'auto' and tensor.is_cuda and find_spec('triton') is not None)


def angle_sums(
    student: torch.Tensor, teacher: torch.Tensor, inverse: torch.Tensor, teacher_inverse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The sums over all angles that loss and gradient are made of, before their mean is taken.

    Args:
        student: Squared distances ``(B, L, L)``.
        teacher: Squared distances ``(B, L, L)``.
        inverse: Inverse distances ``(B, L, L)`` of the student's tokens; 0 between equal ones.
        teacher_inverse: Inverse distances ``(B, L, L)`` of the teacher's tokens.

    Returns:
        The Huber losses of all angles, 0-d, and three ``(B, L, L)``: sum_i w_jk at (j, k), and at (i, j) sum_k w_jk and
        sum_k h'_jk c_jk.
    """
    sides = (student, student * inverse, inverse), (teacher, teacher * teacher_inverse, teacher_inverse)
    pairs, weights, products = (torch.zeros_like(student) for _ in range(3))
    loss = torch.zeros((), dtype=most_exact(student), device=student.device)
    for images, vertices, j, k in _blocks(*student.shape[:2], student.device.type):
        cosines, target = (_twice_cosines(*side, images, vertices, j, k) for side in sides)
        difference = torch.sub(cosines, target, out=target)
        slope = difference.clamp(-2, 2)
        huber = difference.sub_(slope, alpha=0.5)  # Huber: h' (d - h' / 2), each factor twice
        loss.add_(torch.dot(huber.flatten(), slope.flatten()), alpha=0.25 if j == k else 0.5)
        product = cosines.mul_(slope)
        weight = slope.mul_(inverse[images, vertices, j, None]).mul_(inverse[images, vertices, None, k] / 4)
        for sums, terms in ((weights, weight), (products, product)):
            sums[images, vertices, j] += terms.sum(dim=3)
            if j != k:
                sums[images, vertices, k] += terms.sum(dim=2)
        pairs[images, j, k] += weight.sum(dim=1)
    for j, k in combinations(_parts(student.shape[1]), 2):
        pairs[:, k, j] = pairs[:, j, k].mT
    return loss, pairs, weights, products.div_(4)


def _inverse_distances(squared: torch.Tensor) -> torch.Tensor:
    """One over the distance of every two tokens ``(B, L, L)``; 0 where they are equal, so that they have no direction."""
    return squared.rsqrt().masked_fill_(squared == 0, 0.0)


def _twice_cosines(
    squared: torch.Tensor,
    distances: torch.Tensor,
    inverse: torch.Tensor,
    images: slice,
    vertices: slice,
    j: slice,
    k: slice,
) -> torch.Tensor:
    """Twice the cosines of a block, d_ij r_ik + d_ik r_ij - D_jk r_ij r_ik, ``(images, vertices, j, k)``."""
    d, r = distances[images, vertices], inverse[images, vertices]
    cosines = torch.addcmul(d[..., None, k], squared[images, None, j, k], r[..., None, k], value=-1)
    return cosines.mul_(r[..., j, None]).addcmul_(d[..., j, None], r[..., None, k])


def _blocks(batch: int, num_tokens: int, device: str) -> Iterator[tuple[slice, slice, slice, slice]]:
    """Images, vertices, tokens j and tokens k, as many at a time as a block has room for.

    Of two different parts of the tokens, one order is given: angles (k, j) are angles (j, k).
    """
    parts = _parts(num_tokens)
    room = max(_BLOCK_SIZE.get(device, _BLOCK_SIZE['cpu']) // parts[0].stop ** 2, 1)
    num_vertices, num_images = min(room, num_tokens), max(room // num_tokens, 1)
    for image in range(0, batch, num_images):
        for vertex in range(0, num_tokens, num_vertices):
            for j, k in combinations_with_replacement(parts, 2):
                yield slice(image, image + num_images), slice(vertex, vertex + num_vertices), j, k


def _parts(num_tokens: int) -> list[slice]:
    """The tokens in parts of equal size, the last one aside."""
    size = -(-num_tokens // _NUM_PARTS)
    return [slice(first, min(first + size, num_tokens)) for first in range(0, num_tokens, size)]
