"""The angle loss as one Triton kernel: the innermost sums of :mod:`serkd_mm.ops.streamed_angles`, for GPUs.

A program owns some rows j of one image's squared distances and walks over all vertices i. It sees every k, so the sums over
k are its own, nothing is added atomically, and the result does not depend on the order in which programs run.
"""

from contextlib import nullcontext

import torch
import triton
import triton.language as tl

# Angles that a program holds at a time. Squared distances of both sides and one sum of this size live in its registers.
_TILE_SIZE = 4096
_MAX_ROWS = 16


@triton.jit
def _angle_sums(
    student_ptr,
    teacher_ptr,
    inverse_ptr,
    teacher_inverse_ptr,
    loss_ptr,
    pairs_ptr,
    weights_ptr,
    products_ptr,
    num_tokens,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64) * num_tokens * num_tokens
    j = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, COLUMNS)
    in_j, in_k = j < num_tokens, k < num_tokens
    tile = image + j[:, None] * num_tokens + k[None, :]
    in_tile = in_j[:, None] & in_k[None, :]
    student = tl.load(student_ptr + tile, mask=in_tile, other=0.0)
    teacher = tl.load(teacher_ptr + tile, mask=in_tile, other=0.0)
    pairs = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    loss = tl.zeros((ROWS,), dtype=tl.float32)
    for i in range(num_tokens):
        row = image + i * num_tokens
        # Tokens beyond the last have inverse distance 0: their cosines are 0 on both sides, and add nothing.
        r_j = tl.load(inverse_ptr + row + j, mask=in_j, other=0.0)
        r_k = tl.load(inverse_ptr + row + k, mask=in_k, other=0.0) * 0.5
        cosines = _cosines(student, student_ptr, row, j, k, in_j, in_k, r_j, r_k)
        t_j = tl.load(teacher_inverse_ptr + row + j, mask=in_j, other=0.0)
        t_k = tl.load(teacher_inverse_ptr + row + k, mask=in_k, other=0.0) * 0.5
        difference = cosines - _cosines(teacher, teacher_ptr, row, j, k, in_j, in_k, t_j, t_k)
        slope = tl.minimum(tl.maximum(difference, -1.0), 1.0)
        loss += tl.sum(slope * (difference - 0.5 * slope), axis=1)
        weights = slope * r_k[None, :] * r_j[:, None]
        tl.store(weights_ptr + row + j, tl.sum(weights, axis=1), mask=in_j)
        tl.store(products_ptr + row + j, tl.sum(slope * cosines, axis=1), mask=in_j)
        pairs += weights
    tl.store(pairs_ptr + tile, pairs, mask=in_tile)
    tl.store(loss_ptr + tl.program_id(0) * num_tokens + j, loss, mask=in_j)


@triton.jit
def _cosines(squared, squared_ptr, row, j, k, in_j, in_k, r_j, half_r_k):
    """Cosines at vertex i, whose row of squared distances begins at ``row``, between tokens j and k."""
    from_j = tl.load(squared_ptr + row + j, mask=in_j, other=0.0)
    from_k = tl.load(squared_ptr + row + k, mask=in_k, other=0.0)
    return (from_j[:, None] + (from_k[None, :] - squared)) * r_j[:, None] * half_r_k[None, :]


def kernel_angle_sums(
    student: torch.Tensor, teacher: torch.Tensor, inverse: torch.Tensor, teacher_inverse: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """As :func:`serkd_mm.ops.streamed_angles.angle_sums` in float32, of which this is the GPU's."""
    student, teacher, inverse, teacher_inverse = (
        tensor.contiguous() for tensor in (student, teacher, inverse, teacher_inverse)
    )
    batch, num_tokens, _ = student.shape
    columns = triton.next_power_of_2(num_tokens)
    rows = max(min(_MAX_ROWS, _TILE_SIZE // columns), 1)
    loss = student.new_empty(batch, num_tokens)
    pairs, weights, products = (torch.empty_like(student) for _ in range(3))
    with torch.cuda.device(student.device) if student.is_cuda else nullcontext():
        _angle_sums[batch, triton.cdiv(num_tokens, rows)](
            student,
            teacher,
            inverse,
            teacher_inverse,
            loss,
            pairs,
            weights,
            products,
            num_tokens,
            ROWS=rows,
            COLUMNS=columns,
            num_warps=8,
        )
    return loss.sum(), pairs, weights, products
