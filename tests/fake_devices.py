"""Fake GPUs: FakeTensorMode of torch finds shapes, dtypes and devices of CUDA tensors without CUDA."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

LAYERS = (nn.Linear, nn.Conv2d)
aten = torch.ops.aten


class Synchronization(AssertionError):
    """Code waits for the GPU."""


class WrongOnGPU(TorchDispatchMode):
    """Refuse what FakeTensorMode accepts: operations that wait for the GPU, or that raise there.

    They wait: copies from a GPU, writes by a mask, and linear algebra that raises errors. They raise: 0-dimensional tensors
    of the CPU together with others of the GPU, which only pointwise operations accept, and linear algebra in half precision.
    FakeTensorMode itself refuses what reads a value (``item``, ``bool``) or has a shape that depends on values (``nonzero``,
    reading by a mask).
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if source_and_target := copied(func, args, result):
            source, target = source_and_target
            if source.device.type == 'cuda' and target.device.type == 'cpu':
                raise Synchronization(f'copy of {tuple(target.shape)} {target.dtype} from {source.device} to the CPU')
            return result
        indices = args[1] if func.overloadpacket in (aten.index_put, aten.index_put_, aten._index_put_impl_) else []
        if any(index is not None and index.dtype == torch.bool for index in indices):
            raise Synchronization(f'{func} with a mask')
        if func is aten._linalg_check_errors.default:
            raise Synchronization('linear algebra that raises if it fails')
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        mixed = len({tensor.device for tensor in tensors}) > 1
        if mixed and torch.Tag.pointwise not in func.tags and func.overloadpacket is not aten.index:
            raise AssertionError(f'{func} of tensors on {", ".join(str(tensor.device) for tensor in tensors)}')
        if 'linalg' in str(func) and any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in tensors):
            raise AssertionError(f'{func} in half precision')
        return result


class NoUploads(TorchDispatchMode):
    """Refuse copies of the CPU's tensors to a GPU, which wait for it too; also of an index."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        indices = args[1] if func.overloadpacket is aten.index else []
        if any(index is not None and index.device != args[0].device for index in indices):
            raise Synchronization('an index on the CPU')
        if source_and_target := copied(func, args, result):
            source, target = source_and_target
            if source.device.type == 'cpu' and target.device.type == 'cuda':
                raise Synchronization(f'copy of {tuple(target.shape)} {target.dtype} from the CPU to {target.device}')
        return result


def copied(func, args, result):
    """Return source and target of an operation that may copy between devices; None of any other."""
    if func is aten._to_copy.default:
        return args[0], result
    return (args[1], result) if func is aten.copy_.default else None


@contextmanager
def fake_devices(monkeypatch) -> Iterator[FakeTensorMode]:
    """Compute with fake tensors: those on a CUDA device behave as on a GPU, except that they have no values.

    Autocast switches itself off without CUDA, so torch is made to believe that there is a GPU. The Triton kernel
    cannot be launched; tests of ``ops`` compile it.
    """
    monkeypatch.setenv('SERKD_MM_TRITON', '0')
    monkeypatch.setattr(torch.cuda.amp.common, 'amp_definitely_not_available', lambda: False)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda *args, **kwargs: True)
    # Real tensors on the CPU, of a data set for example, become fake tensors on the CPU.
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, WrongOnGPU():
        yield mode


def move(model: nn.Module, device: str, mode: FakeTensorMode) -> None:
    """Replace the parameters and buffers of a model by fake tensors on a device: ``to`` moves no fake parameters."""
    moved: dict[int, torch.Tensor] = {}

    def fake(value: torch.Tensor) -> torch.Tensor:
        if id(value) not in moved:
            known = value if hasattr(value, 'fake_mode') else mode.from_tensor(value)
            copy = torch.empty_like(known.detach(), device=device)
            moved[id(value)] = nn.Parameter(copy, value.requires_grad) if isinstance(value, nn.Parameter) else copy
        return moved[id(value)]

    for module in model.modules():
        for values in (module._parameters, module._buffers):
            values.update({name: fake(value) for name, value in values.items() if value is not None})
    if hasattr(model, 'data_preprocessor'):
        model.data_preprocessor._device = torch.device(device)


@contextmanager
def formats(*models: nn.Module) -> Iterator[set[torch.dtype]]:
    """Collect the dtypes of what linear and convolutional layers return."""
    found: set[torch.dtype] = set()
    with ExitStack() as stack:
        for module in (part for model in models for part in model.modules() if isinstance(part, LAYERS)):
            handle = module.register_forward_hook(lambda _, __, output: found.add(output.dtype))
            stack.callback(handle.remove)
        yield found
