"""The sums of :func:`serkd_mm.ops.angle_relation.blockwise_angle_sums` as one Triton kernel, for GPUs.

A program is one warp. It owns some tokens j of one image and takes some tokens k at a time; for these it loops over all
vertices i. Lanes lie along j and the tokens k in the registers of a lane, so a sum over k takes no exchange between lanes.
The loss is added up in registers. Sums over k at (i, j) grow in memory that no other program writes: no atomics are needed,
and the result does not depend on the order in which programs run. The tokens k are divided among ``_PARTS`` programs, whose
sums are added at the end.

Squared and inverse distance are stored side by side, padded with zeros to whole tiles, so that no load needs a mask and in
float32 one load reads both. Padded angles have the cosine 0 on both sides and add nothing.

Squared distances in float64 are read by two launches, so that the host does not wait for them: the first computes the images
without close tokens in float32, the second all others in float64. The programs of the remaining images end at once.

``tools/benchmarks/kernel_statistics.py`` counts the instructions of the kernel without a GPU; the tiles follow its table.
"""

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from .angle_relation import AngleSums
from .squared_distances import has_close_tokens

# Tokens j of a program and tokens k that it takes at a time: the first tile as often as it fits, the second for a rest that
# fits it. The first costs fewer instructions for each angle, the second pads less. Of more angles a lane, the registers of a
# multiprocessor would hold less than a quarter of its warps.
_TILES = ((64, 8), (32, 8))
# Programs among which the tokens k are divided, at most: a batch of a few images occupies a GPU. A batch of more programs in
# all is divided less, which saves memory.
_PARTS, _PROGRAMS = 4, 4096


@triton.jit(do_not_specialize=['stride'])
def _angle_sums_kernel(
    student_ptr,  # (B, S, S, 2) squared and inverse distances; in float32 a pair is read as one int64
    teacher_ptr,  # (B, S, S, 2)
    huber_ptr,  # (B, P, S) Huber losses summed over i and k, at j
    over_vertices_ptr,  # (B, S, S) sum_i w_ijk at (k, j)
    over_ends_ptr,  # (B, P, S, S) sum_k w_ijk at (i, j)
    slope_cosine_ptr,  # (B, P, S, S) sum_k h'_ijk c_ijk at (i, j)
    chosen_ptr,  # (B,) whether to compute an image
    num_tokens,  # L
    stride,  # S, at least L; a hint that 16 divides it would put several j into one lane
    first_j,  # of the first program
    columns_of_part,  # tokens k of a program
    ROWS: tl.constexpr,  # tokens j of a program
    COLUMNS: tl.constexpr,  # tokens k at a time
):
    if tl.load(chosen_ptr + tl.program_id(0)) == 0:
        return
    dtype = over_vertices_ptr.dtype.element_ty
    image = tl.program_id(0).to(tl.int64) * stride * stride
    part = (tl.program_id(0) * tl.num_programs(2) + tl.program_id(2)).to(tl.int64)
    # From the first of the program and of the loop: not added to them, so that addresses differ by constants.
    j, k = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    first_j += tl.program_id(1) * ROWS
    ends = part * stride * stride + first_j
    huber = tl.zeros((ROWS,), dtype=dtype)
    begin = tl.program_id(2) * columns_of_part
    for first in range(begin, tl.minimum(begin + columns_of_part, num_tokens), COLUMNS):
        tile = image + first * stride + first_j + k[:, None] * stride + j[None, :]
        student, _ = _load_pair(student_ptr, 0, tile)
        teacher, _ = _load_pair(teacher_ptr, 0, tile)
        over_vertices = tl.zeros((COLUMNS, ROWS), dtype=dtype)
        is_begun = tl.zeros((ROWS,), dtype=tl.int32) + first > begin
        for i in range(num_tokens):
            row = image + i * stride
            from_j, r_j = _load_pair(student_ptr, row + first_j, j)
            from_k, r_k = _load_pair(student_ptr, row + first, k)
            # Loads of the teacher's numbers do not move above this: both at once take more registers than 16 warps have.
            tl.debug_barrier()
            to_j, t_j = _load_pair(teacher_ptr, row + first_j, j)
            to_k, t_k = _load_pair(teacher_ptr, row + first, k)
            half_r_j, half_t_j = r_j * 0.5, t_j * 0.5
            # Equal at (j, k) and (k, j) but for the products' rounding, as in `angle_relation._cosines`.
            products = half_r_j[None, :] * r_k[:, None]
            cosines = (from_j[None, :] + from_k[:, None] - student) * products
            targets = (to_j[None, :] + to_k[:, None] - teacher) * half_t_j[None, :]
            difference = cosines - targets * t_k[:, None]
            slope = tl.minimum(tl.maximum(difference, -1.0), 1.0)
            huber += tl.sum(slope * (difference - 0.5 * slope), axis=0)
            over_vertices += slope * products
            sums = tl.sum(slope * r_k[:, None], axis=0) * half_r_j
            sums += tl.load((over_ends_ptr + ends + i * stride) + j, mask=is_begun, other=0.0)
            tl.store((over_ends_ptr + ends + i * stride) + j, sums)
            sums = tl.sum(slope * cosines, axis=0)
            sums += tl.load((slope_cosine_ptr + ends + i * stride) + j, mask=is_begun, other=0.0)
            tl.store((slope_cosine_ptr + ends + i * stride) + j, sums)
        tl.store(over_vertices_ptr + tile, over_vertices)
    tl.store(huber_ptr + (part * stride + first_j) + j, huber)


@triton.jit
def _load_pair(pairs, first, offsets):
    """The squared and the inverse distance of pairs: both halves of an int64, or two numbers."""
    if pairs.dtype.element_ty == tl.int64:
        pair = tl.load((pairs + first) + offsets)
        return pair.to(tl.int32).to(tl.float32, bitcast=True), (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    else:
        numbers = (pairs + 2 * first) + 2 * offsets
        return tl.load(numbers), tl.load(numbers + 1)


def angle_sums(student: Tensor, teacher: Tensor, inverse: Tensor, teacher_inverse: Tensor) -> AngleSums:
    """Sum over all angles on a GPU; arguments and result as in :func:`blockwise_angle_sums`.

    Of squared distances in float64, images without close tokens are computed in float32.
    """
    sides = ((student, inverse), (teacher, teacher_inverse))
    if student.dtype != torch.float64:
        return AngleSums(*_sums(sides, torch.ones(len(student), dtype=torch.bool, device=student.device)))
    close = has_close_tokens(student, teacher)
    of_others = _sums([[tensor.float() for tensor in side] for side in sides], ~close)
    of_close = _sums(sides, close)
    shaped = (close.view(-1, *[1] * (exact.ndim - 1)) for exact in of_close)
    return AngleSums(*map(torch.where, shaped, of_close, of_others))


def row_blocks(num_tokens: int, exact: bool = False) -> list[tuple[int, int, int, int]]:
    """The launches for a number of tokens: the first token j, the programs along j, and the two sides of their tile.

    ``exact`` halves the tokens k: numbers in float64 take two registers.
    """
    (rows, columns), (rest_rows, rest_columns) = ((rows, columns // (1 + exact)) for rows, columns in _TILES)
    whole, rest = divmod(num_tokens, rows)
    if rest > rest_rows:
        whole, rest = whole + 1, 0
    blocks = [(0, whole, rows, columns), (whole * rows, min(rest, 1), rest_rows, rest_columns)]
    return [block for block in blocks if block[1]]


def parts_of(batch: int, num_tokens: int, blocks: list[tuple[int, int, int, int]]) -> tuple[int, int]:
    """The parts of the tokens k for the launches of :func:`row_blocks`, and the tokens of a part."""
    widest = max(columns for *_, columns in blocks)
    wanted = min(_PARTS, triton.cdiv(_PROGRAMS, batch * sum(count for _, count, *_ in blocks)))
    of_part = triton.cdiv(triton.cdiv(num_tokens, wanted), widest) * widest
    return triton.cdiv(num_tokens, of_part), of_part


def _sums(sides: list[tuple[Tensor, Tensor]], chosen: Tensor) -> list[Tensor]:
    """The four sums of the chosen images ``(B,)``, in the dtype of the sides; those of other images are arbitrary."""
    batch, num_tokens, _ = sides[0][0].shape
    blocks = row_blocks(num_tokens, sides[0][0].dtype == torch.float64)
    widest = max(columns for *_, columns in blocks)
    parts, of_part = parts_of(batch, num_tokens, blocks)
    first, count, rows, _ = blocks[-1]
    stride = max(first + count * rows, triton.cdiv(num_tokens, widest) * widest)
    pairs = [_padded_pairs(side, stride) for side in sides]
    shapes = [(batch, parts, stride), (batch, stride, stride), *[(batch, parts, stride, stride)] * 2]
    huber, over_vertices, over_ends, slope_cosine = outputs = [sides[0][0].new_empty(shape) for shape in shapes]
    chosen = chosen.to(torch.int8)
    with torch.cuda.device(chosen.device) if chosen.is_cuda else nullcontext():
        for first, count, rows, columns in blocks:
            _angle_sums_kernel[batch, count, parts](
                *pairs, *outputs, chosen, num_tokens, stride, first, of_part, ROWS=rows, COLUMNS=columns, num_warps=1
            )
    inside = (..., slice(num_tokens), slice(num_tokens))
    losses = huber[..., :num_tokens].sum(dim=(1, 2))
    # tl.maximum drops NaN, so the slopes of NaN are finite. The losses are not.
    marks = losses.masked_fill(~losses.isnan(), 0.0)[:, None, None]
    return [losses, over_vertices[inside] + marks, *(s[inside].sum(dim=1).add_(marks) for s in (over_ends, slope_cosine))]


def _padded_pairs(side: tuple[Tensor, Tensor], stride: int) -> Tensor:
    """Squared and inverse distances of a side ``(B, stride, stride, 2)``; in float32 as int64 without the last dimension."""
    squared, inverse = side
    num_tokens = squared.shape[1]
    pairs = squared.new_zeros(len(squared), stride, stride, 2)
    pairs[:, :num_tokens, :num_tokens, 0] = squared
    pairs[:, :num_tokens, :num_tokens, 1] = inverse
    return pairs.view(torch.int64)[..., 0] if pairs.dtype == torch.float32 else pairs
