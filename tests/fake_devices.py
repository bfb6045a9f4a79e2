"""Fake GPUs: FakeTensorMode of torch finds shapes, dtypes and devices of CUDA tensors without CUDA."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

LAYERS = (nn.Linear, nn.Conv2d)
aten = torch.ops.aten


class Synchronization(AssertionError):
    """Code waits for the GPU."""


class RefuseSynchronization(TorchDispatchMode):
    """Refuse copies from a GPU to the CPU and writes to a mask, which wait for all that the GPU has been given to do.

    What reads a value (``item``, ``bool``) or has a shape that depends on values (``nonzero``, reading by a mask) is refused
    by FakeTensorMode.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        copies = {aten._to_copy.default: (args[:1], result), aten.copy_.default: (args[1:2], result)}
        for source, target in [copies[func]] if func in copies else []:
            if source[0].device.type == 'cuda' and target.device.type == 'cpu':
                raise Synchronization(f'copy of {tuple(target.shape)} {target.dtype} from {source[0].device} to the CPU')
        indices = args[1] if func.overloadpacket in (aten.index_put, aten.index_put_, aten._index_put_impl_) else []
        if any(index is not None and index.dtype == torch.bool for index in indices):
            raise Synchronization(f'{func} with a mask')
        return result


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
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, RefuseSynchronization():
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
