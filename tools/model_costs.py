"""What it costs to run a model: FLOPs of the whole model and until the last tap, tokens, and memory of the weights."""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from serkd_mm.distillers.frozen_teacher import FrozenTeacher
from serkd_mm.distillers.teacher_size import patch_size

MIB = 2**20


def count_flops(run: Callable, image_shape: Sequence[int]) -> int:
    """Count the FLOPs of a run on one image; a multiplication with an addition is one, as in mmpretrain's tables."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run(torch.zeros(1, *image_shape))
    return counter.get_total_flops() // 2


def student_costs(student: nn.Module, image_shape: Sequence[int]) -> list[str]:
    """Return the cells FLOPs and 'until the last tap' of a student, which always runs to its end."""
    training = student.training
    flops = count_flops(student.eval(), image_shape)
    student.train(training)
    return [readable(flops), '-']


def teacher_costs(teacher: FrozenTeacher, image_shape: Sequence[int]) -> list[str]:
    """Return the cells FLOPs and 'until the last tap' of a teacher, which stops there in training."""
    stops_early = teacher.stops_early
    counts = []
    for teacher.stops_early in (False, True):
        counts.append(count_flops(teacher, image_shape))
    teacher.stops_early = stops_early
    whole, early = counts
    return [readable(whole), f'{readable(early)} ({100 * early / max(whole, 1):.0f} %)']


def count_patches(model: nn.Module, size: Sequence[int]) -> str:
    """Return the number of patches of an image of a transformer; '-' for a model with overlapping windows."""
    patch = patch_size(model)
    return '-' if patch is None else f'{(size[0] // patch[0]) * (size[1] // patch[1]):,}'


def weights_memory(model: nn.Module) -> str:
    """Return the memory of the weights and buffers, and the dtype of most of them."""
    by_dtype: dict[torch.dtype, int] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        by_dtype[tensor.dtype] = by_dtype.get(tensor.dtype, 0) + tensor.nbytes
    if not by_dtype:
        return '-'
    dtype = str(max(by_dtype, key=by_dtype.get)).removeprefix('torch.')
    return f'{sum(by_dtype.values()) / MIB:,.1f} MiB {dtype}'


def readable(flops: int) -> str:
    """Return a number in billions, or in millions if it is small."""
    return f'{flops / 1e9:.3g} G' if flops >= 1e8 else f'{flops / 1e6:.3g} M'
