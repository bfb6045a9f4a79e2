import torch
from torch import nn


def lazy_linear(owner: nn.Module, name: str, features: torch.Tensor, num_channels: int) -> nn.Linear:
    """A linear map that belongs to a loss and is made when the width of its input is first seen.

    The distiller calls each loss once while it is built, so the map is there before the optimizer.

    Args:
        owner: The loss; it has registered ``name`` as a module that is None so far.
        name: Attribute of ``owner`` that holds the map.
        features: What is about to be mapped, ``(..., C)``.
        num_channels: Width to map to.

    Raises:
        ValueError: The map was made for other widths.
    """
    layer, widths = getattr(owner, name), (features.shape[-1], num_channels)
    if layer is None:
        layer = nn.Linear(*widths).to(features)
        setattr(owner, name, layer)
    elif widths != (layer.in_features, layer.out_features):
        raise ValueError(f'{type(owner).__name__} was made for {layer}, but got channels {widths}')
    return layer
