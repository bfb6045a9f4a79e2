"""One vector for each image: the mean over positions."""

import torch

from .precision import at_least_float32


def pooled(feature: torch.Tensor, reader: str) -> torch.Tensor:
    """Average a feature over its positions, in float32 or better.

    Args:
        feature: Features ``(B, C)``, which stay as they are, tokens ``(B, L, C)`` or maps ``(B, C, H, W)``.
        reader: Name of what reads the feature, for the message.

    Returns:
        Vectors ``(B, C)``.

    Raises:
        ValueError: The feature has another number of dimensions.
    """
    if not 2 <= feature.ndim <= 4:
        raise ValueError(
            f'{reader} reads features (B, C), tokens (B, L, C) or maps (B, C, H, W), but got shape {tuple(feature.shape)}'
        )
    positions = {2: (), 3: (1,), 4: (2, 3)}[feature.ndim]
    feature = at_least_float32(feature)
    return feature.mean(dim=positions) if positions else feature
