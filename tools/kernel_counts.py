"""Count the kernels of a training step, their FLOPs and the bytes that they move, without computing anything.

The step runs on fake tensors: they have shapes and dtypes, and no values. So a batch of any size is counted on any machine
in seconds. Autocast is that of a CPU, whose rules for the layers of classifiers are those of a GPU.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from cache_sizes import computed_outputs, planned_outputs
from describe import count_saved, generated_batch, sides_of_teachers, size_of, tensors_of
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from model_costs import count_flops
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from serkd_mm.distillers.cache_maker import CacheOptions
from serkd_mm.ops import angle_relation, squared_distances
from serkd_mm.ops.angle_relation import AngleSums
from serkd_mm.ops.precision import autocast_off
from serkd_mm.teacher_cache.token_basis import TokenBasis

# They read and write no memory: views that their schema does not call views, and memory that is only reserved.
_FREE = ('prim::', 'aten::_unsafe_view', 'aten::empty', 'aten::new_empty', 'aten::_reshape_alias', 'aten::lift')


@dataclass(frozen=True)
class Kernel:
    """What a kernel does: FLOPs (a multiplication with an addition is two), bytes read and written, dtype it computes in."""

    flops: int
    num_bytes: int
    dtype: torch.dtype


@dataclass
class StepCounts:
    """What a training step does, by part.

    Attributes:
        batch_size: Images of the step.
        forward_flops: FLOPs of the student and of the teachers until their last tap for one image, forward alone.
        teacher: Kernels of the teachers and of their views.
        student: Kernels of the student and of the losses, forward and backward, except the sums over angles.
        decoding: Kernels that read a cache in place of the teacher.
        optimizer: Kernels of the update.
        angles: Images and tokens of each angle loss.
        memory: Bytes by part.
        cached: Losses, format and bytes for each output that a cache holds of an image.
    """

    batch_size: int
    forward_flops: dict[str, int]
    teacher: list[Kernel]
    student: list[Kernel]
    decoding: list[Kernel]
    optimizer: list[Kernel]
    angles: list[tuple[int, int]]
    memory: dict[str, int]
    cached: list[tuple[list[str], str, int]]


class KernelCounter(TorchDispatchMode):
    """List the kernels that run inside: each operation of torch that is not a view is one."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []
        self._flops = FlopCounterMode(display=False)

    def __enter__(self) -> 'KernelCounter':
        self._flops.__enter__()  # Below this mode, so it has counted an operation when that returns here.
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._flops.__exit__(*error)

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run an operation and count it."""
        before = self._flops.get_total_flops()
        result = func(*args, **(kwargs or {}))
        flops = self._flops.get_total_flops() - before
        if not _is_free(func):
            inputs = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
            outputs = [value for value in tree_leaves(result) if isinstance(value, torch.Tensor)]
            dtype = next((value.dtype for value in inputs + outputs if value.is_floating_point()), torch.float32)
            self.kernels.append(Kernel(flops, sum(map(_touched, inputs + outputs)), dtype))
        return result


class ReadZeros(TorchDispatchMode):
    """Let Python read 0 where it reads a value of a fake tensor, which has none: checks of labels pass."""

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run an operation, or return 0."""
        if func is torch.ops.aten._local_scalar_dense.default:
            kind = args[0].dtype
            return False if kind == torch.bool else 0.0 if kind.is_floating_point else 0
        return func(*args, **(kwargs or {}))


def count_step(model: nn.Module, config: Config, batch_size: int, mixed: bool = True) -> StepCounts:
    """Count a training step. The model cannot be used afterwards: its weights become fake tensors.

    Args:
        model: A distiller whose teachers are built.
        config: Its config, for the optimizer.
        batch_size: Images of the step, on one GPU.
        mixed: Whether autocast computes in bfloat16, as with --amp. Default: True.
    """
    teachers = sides_of_teachers(model)
    memory = {
        'student': size_of(model.parameters()) + size_of(model.buffers()),
        'teacher': sum(size_of(tensors_of(teacher)) for teacher in teachers.values()),
        'gradients': size_of(weight for weight in model.parameters() if weight.requires_grad),
    }
    optimizer, memory['optimizer'] = _count_update(model, config)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, ReadZeros(), _as_on_a_gpu() as angles:
        make_fake([model, *teachers.values()], mode)
        forward = {'student': 2 * count_flops(model.student.eval(), model.input_size)}
        forward['teacher'] = sum(2 * count_flops(teacher, model.input_size) for teacher in teachers.values())
        model.train()
        batch = generated_batch(model, batch_size)
        with torch.autocast('cpu', torch.bfloat16, enabled=mixed):
            cached, decoding = _count_decoding(model, batch['inputs'])
            with KernelCounter() as of_teacher:
                model.targets(**batch)
            angles.clear()
            with KernelCounter() as step, count_saved(model) as saved:
                losses = model.distillation_step(**batch)
                total = model.parse_losses(losses)[0]
        with step:
            total.backward()
    memory['saved'] = sum(saved.values())
    student = step.kernels[len(of_teacher.kernels) :]
    return StepCounts(batch_size, forward, of_teacher.kernels, student, decoding, optimizer, angles, memory, cached)


def _is_free(func: Any) -> bool:
    """Whether an operation touches no memory."""
    schema = func._schema
    is_view = not schema.is_mutable and any(output.alias_info is not None for output in schema.returns)
    return is_view or schema.name.startswith(_FREE)


def _touched(tensor: torch.Tensor) -> int:
    """Bytes of a tensor; an expanded one is read from fewer than it has elements."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _count_update(model: nn.Module, config: Config) -> tuple[list[Kernel], int]:
    """Kernels of an update of the optimizer, and the bytes of its state, by an update with gradients of zero."""
    settings = {
        key: config.optim_wrapper[key]
        for key in ('optimizer', 'paramwise_cfg', 'constructor')
        if key in config.optim_wrapper
    }
    optimizer = build_optim_wrapper(model, {'type': 'OptimWrapper', **settings}).optimizer
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
    with KernelCounter() as update:
        optimizer.step()
    model.zero_grad(set_to_none=True)
    states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    return update.kernels, size_of(states)


def _count_decoding(model: nn.Module, inputs: torch.Tensor) -> tuple[list[tuple[list[str], str, int]], list[Kernel]]:
    """What a cache holds of an image, and the kernels that read it for a batch; none if it cannot be made."""
    features = {name: teacher(inputs) for name, teacher in model.teachers.items()}
    planned = planned_outputs(model, features)
    if not all(losses for losses, *_ in planned):
        return planned, []
    with KernelCounter() as decoding, autocast_off(inputs):
        for output, tensor in computed_outputs(model, features):
            if output.needs_basis(tensor):
                (tokens, channels), rank = tensor.shape[1:], min(CacheOptions.rank, tensor.shape[2])
                basis = TokenBasis(torch.empty(channels), torch.empty(channels, rank), torch.empty(rank))
                basis.decode(torch.empty(len(tensor), tokens, rank, dtype=torch.int8))
            else:
                form = output.format(tensor, CacheOptions.dtype, CacheOptions.top_k)
                form.decode(torch.empty(len(tensor), form.num_bytes, dtype=torch.uint8))
    return planned, decoding.kernels


def make_fake(models: Iterable[nn.Module], mode: FakeTensorMode) -> None:
    """Replace weights and buffers by fake tensors; what is shared stays shared."""
    made: dict[int, torch.Tensor] = {}
    for module in (part for model in models for part in model.modules()):
        for values in (module._parameters, module._buffers):
            for name, value in values.items():
                if value is not None:
                    values[name] = made.setdefault(id(value), value if id(value) in made else mode.from_tensor(value))


@contextmanager
def _as_on_a_gpu() -> Iterator[list[tuple[int, int]]]:
    """Compute the relation losses as on a GPU; their sums over angles, a kernel of ours there, are listed instead."""
    angles: list[tuple[int, int]] = []

    def list_angles(student: torch.Tensor, *others: torch.Tensor) -> AngleSums:
        angles.append(tuple(student.shape[:2]))
        return AngleSums(student.new_zeros(len(student)), *(torch.zeros_like(student) for _ in others))

    with (
        mock.patch.object(angle_relation, 'blockwise_angle_sums', list_angles),
        mock.patch.object(squared_distances, 'reads_are_free', return_value=False),
    ):
        yield angles
