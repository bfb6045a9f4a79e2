"""Layers whose sizes are known only when their first input arrives."""

from collections.abc import Callable

import torch
from torch import nn


def build_on_first_input(
    owner: nn.Module, name: str, features: torch.Tensor, widths: tuple[int, ...], make: Callable[..., nn.Module]
) -> nn.Module:
    """Return the layer ``name`` of a module, and build it at the first call.

    The distiller runs every component once while it is built, so the layer exists before the optimizer is made.

    Args:
        owner: The module that holds the layer; it has registered ``name`` as None.
        name: Attribute of ``owner``.
        features: The input of the layer; a new layer has its device and dtype.
        widths: Sizes that follow from the input, the arguments of ``make``.
        make: Builds the layer.

    Raises:
        ValueError: The layer was built for other sizes.
    """
    layer = getattr(owner, name)
    if layer is None:
        layer = make(*widths).to(features)
        layer.widths = widths
        for part in layer.modules():
            if hasattr(part, 'weight'):
                part.register_forward_pre_hook(_match_weights)
        setattr(owner, name, layer)
    elif layer.widths != widths:
        raise ValueError(f'{type(owner).__name__}.{name} was built for {layer.widths}, but this input needs {widths}')
    return layer


def _match_weights(layer: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """Convert the input of a layer to the dtype of its weights, which FSDP and DeepSpeed may hold in half precision."""
    (features,) = inputs
    return (features.to(layer.weight.dtype),)
