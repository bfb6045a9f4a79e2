from collections.abc import Iterator
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from .finite_loss_hook import NonFiniteLossError, advice

_NAMES = {'state_dict': 'weights', 'ema_state_dict': 'averaged weights', 'optimizer': 'entries of the optimizer state'}


@HOOKS.register_module()
class FiniteStateHook(Hook):
    """Refuse to save weights, averaged weights or an optimizer state with infinite or NaN values.

    They can become non-finite while the loss is finite: through the step itself, through the images of another rank, or, for
    the squared gradients of Adam, through a gradient whose square overflows. From such a state no run recovers.
    """

    priority = 'LOW'  # After an EMA has added its weights; before they are converted and written.

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check what is about to be saved.

        Raises:
            NonFiniteLossError: A value is infinite or NaN. No checkpoint is written or removed.
        """
        for part, spoken in _NAMES.items():
            wrong = _non_finite(dict(_tensors(checkpoint.get(part), '')))
            if wrong:
                when = 'iteration {iter}, epoch {epoch}'.format(**checkpoint['meta'])
                raise NonFiniteLossError(
                    f'{when}: {len(wrong)} of the {spoken} are not finite, for example {wrong[0]}. {advice(runner)}'
                )


def _tensors(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the floating-point tensors inside dicts and lists by path."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point() and value.numel():
            yield name, value
    elif isinstance(value, (dict, list, tuple)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tensors(item, f'{name}.{key}' if name else str(key))


def _non_finite(tensors: dict[str, torch.Tensor]) -> list[str]:
    """Return the names of tensors that hold infinite or NaN values, with one synchronization for each device.

    The smallest and the largest value are NaN if any value is. They are found in one pass without a temporary tensor.
    """
    wrong = []
    for device in {tensor.device for tensor in tensors.values()}:
        names = [name for name, tensor in tensors.items() if tensor.device == device]
        extremes = [torch.stack(tensors[name].detach().aminmax()).double() for name in names]
        finite = torch.stack(extremes).isfinite().all(dim=1).tolist()
        wrong.extend(name for name, is_finite in zip(names, finite, strict=True) if not is_finite)
    return wrong
