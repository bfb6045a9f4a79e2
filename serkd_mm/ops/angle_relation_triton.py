"""The sums of :func:`serkd_mm.ops.angle_relation.blockwise_angle_sums` as one Triton kernel, for GPUs.

A program owns some rows j of one image's squared distances and loops over all vertices i. It covers every k, so the sums
over k are complete, no atomics are needed, and the result does not depend on the order in which programs run.

Squared distances in float64 are read by two launches, so that the host does not wait for them: the first computes the images
without close tokens in float32, the second all others in float64. The programs of the remaining images end at once.
"""

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from .angle_relation import AngleSums
from .squared_distances import has_close_tokens

# Angles that a program holds at a time. Squared distances of both sides and one sum of this size live in its registers.
_TILE_SIZE = 4096
_MAX_ROWS = 16


@triton.jit
def _angle_sums_kernel(
    student_ptr,  # (B, L, L) squared distances
    teacher_ptr,  # (B, L, L) squared distances
    inverse_ptr,  # (B, L, L) inverse distances of the student
    teacher_inverse_ptr,  # (B, L, L)
    huber_ptr,  # (B, L) Huber losses summed over i and k, at j
    over_vertices_ptr,  # (B, L, L) sum_i w_ijk at (j, k)
    over_ends_ptr,  # (B, L, L) sum_k w_ijk at (i, j)
    slope_cosine_ptr,  # (B, L, L) sum_k h'_ijk c_ijk at (i, j)
    chosen_ptr,  # (B,) whether to compute an image
    num_tokens,  # L
    ROWS: tl.constexpr,  # tokens j of a program
    COLUMNS: tl.constexpr,  # L rounded up to a power of two
):
    if tl.load(chosen_ptr + tl.program_id(0)) == 0:
        return
    dtype = student_ptr.dtype.element_ty
    image = tl.program_id(0).to(tl.int64) * num_tokens * num_tokens
    j = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, COLUMNS)
    in_j, in_k = j < num_tokens, k < num_tokens
    tile = image + j[:, None] * num_tokens + k[None, :]
    in_tile = in_j[:, None] & in_k[None, :]
    student = tl.load(student_ptr + tile, mask=in_tile, other=0.0)
    teacher = tl.load(teacher_ptr + tile, mask=in_tile, other=0.0)
    over_vertices = tl.zeros((ROWS, COLUMNS), dtype=dtype)
    huber = tl.zeros((ROWS,), dtype=dtype)
    for i in range(num_tokens):
        row = image + i * num_tokens
        # Padded tokens have inverse distance 0: their cosines are 0 on both sides and add nothing.
        r_j = tl.load(inverse_ptr + row + j, mask=in_j, other=0.0)
        half_r_k = tl.load(inverse_ptr + row + k, mask=in_k, other=0.0) * 0.5
        cosines = _cosines(student, student_ptr, row, j, k, in_j, in_k, r_j, half_r_k)
        t_j = tl.load(teacher_inverse_ptr + row + j, mask=in_j, other=0.0)
        half_t_k = tl.load(teacher_inverse_ptr + row + k, mask=in_k, other=0.0) * 0.5
        difference = cosines - _cosines(teacher, teacher_ptr, row, j, k, in_j, in_k, t_j, half_t_k)
        slope = tl.minimum(tl.maximum(difference, -1.0), 1.0)
        slope = tl.where(difference == difference, slope, difference)  # noqa: PLR0124 (NaN, which tl.maximum drops)
        huber += tl.sum(slope * (difference - 0.5 * slope), axis=1)
        weights = slope * half_r_k[None, :] * r_j[:, None]
        tl.store(over_ends_ptr + row + j, tl.sum(weights, axis=1), mask=in_j)
        tl.store(slope_cosine_ptr + row + j, tl.sum(slope * cosines, axis=1), mask=in_j)
        over_vertices += weights
    tl.store(over_vertices_ptr + tile, over_vertices, mask=in_tile)
    tl.store(huber_ptr + tl.program_id(0) * num_tokens + j, huber, mask=in_j)


@triton.jit
def _cosines(squared, squared_ptr, row, j, k, in_j, in_k, r_j, half_r_k):
    """Cosines (ROWS, COLUMNS) at vertex i, whose row of squared distances starts at ``row``, between tokens j and k."""
    from_j = tl.load(squared_ptr + row + j, mask=in_j, other=0.0)
    from_k = tl.load(squared_ptr + row + k, mask=in_k, other=0.0)
    # Equal at (j, k) and (k, j), as in `angle_relation._cosines`.
    return (from_j[:, None] + from_k[None, :] - squared) * r_j[:, None] * half_r_k[None, :]


def angle_sums(student: Tensor, teacher: Tensor, inverse: Tensor, teacher_inverse: Tensor) -> AngleSums:
    """Sum over all angles on a GPU; arguments and result as in :func:`blockwise_angle_sums`.

    Of squared distances in float64, images without close tokens are computed in float32.
    """
    inputs = [tensor.contiguous() for tensor in (student, teacher, inverse, teacher_inverse)]
    huber = student.new_empty(student.shape[:2])
    outputs = [huber, *(torch.empty_like(inputs[0]) for _ in range(3))]
    if student.dtype == torch.float64:
        close = has_close_tokens(student, teacher)
        _launch([tensor.float() for tensor in inputs], outputs, ~close)
        _launch(inputs, outputs, close)
    else:
        _launch(inputs, outputs, torch.ones(len(student), dtype=torch.bool, device=student.device))
    return AngleSums(huber.sum(dim=1), *outputs[1:])


def _launch(inputs: list[Tensor], outputs: list[Tensor], chosen: Tensor) -> None:
    """Fill the outputs of the chosen images ``(B,)``, in the dtype of the inputs."""
    batch, num_tokens, _ = inputs[0].shape
    columns = triton.next_power_of_2(num_tokens)
    rows = max(min(_MAX_ROWS, _TILE_SIZE // columns), 1)
    with torch.cuda.device(chosen.device) if chosen.is_cuda else nullcontext():
        _angle_sums_kernel[batch, triton.cdiv(num_tokens, rows)](
            *inputs, *outputs, chosen.to(torch.int8), num_tokens, ROWS=rows, COLUMNS=columns, num_warps=8
        )
