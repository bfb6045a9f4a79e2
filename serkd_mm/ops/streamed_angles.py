"""The angle loss from Gram matrices, value and gradient in one pass, without anything of size B x L^3.

With r_ij the inverse distance of tokens i and j, the cosine at vertex i is

    c_jk = (G_jk - G_ij - G_ik + G_ii) r_ij r_ik

The loss is a scalar, so its gradient with respect to G is as well accumulated while its value is: vertex block by vertex
block, with h' the derivative of the Huber loss,

    dL/dG_jk += h'_jk r_ij r_ik         dL/dG_ij -= 2 r_ij sum_k h'_jk r_ik         dL/dG_ii += sum_jk h'_jk r_ij r_ik

and through r_ij, which depends on the squared distance D_ij = G_ii + G_jj - 2 G_ij, dL/dD_ij -= r_ij^2 sum_k h'_jk c_jk.
"""

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import torch
from torch.autograd.function import once_differentiable

# Angles that are held at a time: on a CPU as many as its caches hold, on a GPU enough to keep it busy.
_BLOCK_SIZE = {'cpu': 2**17, 'cuda': 2**25}
# Two tokens closer than 1e-6 of their norm are one: float32 can not tell them apart, and knows no direction between them.
_EQUAL_TOKENS = 1e-12


def streamed_angle_loss(student: torch.Tensor, teacher: torch.Tensor, exact: bool = False) -> torch.Tensor:
    """Mean Huber loss (delta 1) between the cosines at every vertex i between tokens j and k.

    Args:
        student: Gram matrices ``(B, L, L)`` of the student's tokens, symmetric.
        teacher: Gram matrices ``(B, L, L)`` of the teacher's; receives no gradient.
        exact: Keep the format of the matrices throughout; the kernel for GPUs does not.

    Returns:
        The 0-d loss; it can be differentiated once.
    """
    sums = angle_sums if exact else choose_angle_sums(student)
    return _StreamedAngleLoss.apply(student, teacher, sums)


class _StreamedAngleLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, student: torch.Tensor, teacher: torch.Tensor, sums: Callable) -> torch.Tensor:
        loss, gradient = _value_and_gradient(student, teacher, sums)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return grad_output * gradient, None, None


def _value_and_gradient(student: torch.Tensor, teacher: torch.Tensor, sums: Callable) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and its gradient ``(B, L, L)`` with respect to the student's Gram matrices."""
    batch, num_tokens, _ = student.shape
    total, gradient, row_sums, through_distance = sums(
        student, teacher, _inverse_distances(student), _inverse_distances(teacher)
    )
    gradient += 2 * through_distance - 2 * row_sums  # D_ij = ... - 2 G_ij, and dL/dD_ij is minus this
    diagonal = row_sums.sum(dim=2) - through_distance.sum(dim=2) - through_distance.sum(dim=1)
    gradient.diagonal(dim1=1, dim2=2).add_(diagonal)
    num_angles = batch * num_tokens**3
    return total / num_angles, gradient / num_angles


def choose_angle_sums(gram: torch.Tensor) -> Callable[..., tuple[torch.Tensor, ...]]:
    """What computes the sums: the Triton kernel for tensors on a GPU, where Triton is installed, and else PyTorch.

    The environment variable ``SERKD_MM_TRITON`` decides otherwise: ``0`` for PyTorch, ``1`` for the kernel, also for
    tensors on a CPU, which Triton's interpreter computes (``TRITON_INTERPRET=1``).

    Raises:
        ValueError: The variable has another value.
        ImportError: It asks for a Triton that is not installed.
    """
    setting = os.environ.get('SERKD_MM_TRITON', 'auto')
    if setting not in ('0', '1', 'auto'):
        raise ValueError(f"SERKD_MM_TRITON must be '0', '1' or 'auto', but is {setting!r}")
    if setting == '0' or (setting == 'auto' and not (gram.is_cuda and find_spec('triton'))):
        return angle_sums
    from . import angle_kernel  # noqa: PLC0415 (Triton is not installed everywhere)

    return angle_kernel.angle_sums


def angle_sums(
    student: torch.Tensor, teacher: torch.Tensor, inverse: torch.Tensor, teacher_inverse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The sums over all angles that loss and gradient are made of, before their mean is taken.

    Args:
        student: Gram matrices ``(B, L, L)``.
        teacher: Gram matrices ``(B, L, L)``.
        inverse: Inverse distances ``(B, L, L)`` of the student's tokens.
        teacher_inverse: Inverse distances ``(B, L, L)`` of the teacher's tokens.

    Returns:
        The Huber losses of all angles, 0-d, and three ``(B, L, L)``: over vertices i, sum h'_jk r_ij r_ik at (j, k); and at
        (i, j), r_ij sum_k h'_jk r_ik and r_ij^2 sum_k h'_jk c_jk.
    """
    batch, num_tokens, _ = student.shape
    total, gradient = student.new_zeros(()), torch.zeros_like(student)
    row_sums, through_distance = torch.empty_like(student), torch.empty_like(student)
    for images, vertices in _blocks(batch, num_tokens, student.device.type):
        r = inverse[images, vertices]
        cosines = _cosines(student[images], vertices, r)
        difference = cosines - _cosines(teacher[images], vertices, teacher_inverse[images, vertices])
        slope = difference.clamp(-1, 1)
        total += difference.sub_(slope, alpha=0.5).mul_(slope).sum()  # Huber: h' (d - h' / 2)
        row_sums[images, vertices] = r * torch.einsum('bijk,bik->bij', slope, r)
        through_distance[images, vertices] = r.square() * torch.einsum('bijk,bijk->bij', slope, cosines)
        gradient[images] += slope.mul_(r[..., None]).mul_(r[..., None, :]).sum(dim=1)
    return total, gradient, row_sums, through_distance


def _inverse_distances(gram: torch.Tensor) -> torch.Tensor:
    """One over the distance of every two tokens ``(B, L, L)``; 0 where they are equal, so that they have no direction."""
    norms = gram.diagonal(dim1=1, dim2=2)
    sums = norms[:, :, None] + norms[:, None, :]
    squared = sums - 2 * gram
    equal = squared <= _EQUAL_TOKENS * sums
    return squared.masked_fill(equal, 1.0).rsqrt().masked_fill(equal, 0.0)


def _cosines(gram: torch.Tensor, vertices: slice, inverse: torch.Tensor) -> torch.Tensor:
    """Cosines ``(B', I, L, L)`` at some vertices of some images.

    Args:
        gram: Gram matrices ``(B', L, L)`` of those images.
        vertices: The vertices i.
        inverse: Inverse distances ``(B', I, L)`` from them.
    """
    own = gram.diagonal(dim1=1, dim2=2)[:, vertices, None]
    offset = gram[:, vertices] - own / 2  # G_ij + G_ik - G_ii is offset_j + offset_k
    products = gram[:, None] - offset[..., None]
    return products.sub_(offset[..., None, :]).mul_(inverse[..., None]).mul_(inverse[..., None, :])


def _blocks(batch: int, num_tokens: int, device: str) -> Iterator[tuple[slice, slice]]:
    """Images and vertices, as many at a time as a block has room for."""
    room = max(_BLOCK_SIZE.get(device, _BLOCK_SIZE['cpu']) // num_tokens**2, 1)
    num_vertices = min(room, num_tokens)
    num_images = max(room // num_tokens, 1)
    for image in range(0, batch, num_images):
        for vertex in range(0, num_tokens, num_vertices):
            yield slice(image, image + num_images), slice(vertex, vertex + num_vertices)
