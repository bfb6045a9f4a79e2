"""Normalization of a model's input, and the conversion from one normalization to another."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import Any

import torch
from torch import nn

from .config_errors import ConfigError


def check_preprocessor(config: Any, key: str) -> None:
    """Check the numbers of a data preprocessor's config, which would otherwise fail or be infinite at the first images.

    Args:
        config: The config; only a dict is checked.
        key: Its key, for messages.

    Raises:
        ConfigError: ``mean`` or ``std`` is not one or three numbers, a deviation is not positive, or ``num_classes`` is not
            a positive integer.
    """
    if not isinstance(config, Mapping):
        return
    for name in ('mean', 'std'):
        values = config.get(name)
        if values is None:
            continue
        numbers = isinstance(values, (list, tuple)) and all(
            isinstance(value, Real) and not isinstance(value, bool) and isfinite(value) for value in values
        )
        if not numbers or len(values) not in (1, 3):
            raise ConfigError(f'{key}.{name} must be a list of one number for each channel, 1 or 3, but is {values!r}')
        if name == 'std' and min(values) <= 0:
            raise ConfigError(f'{key}.std must be positive, because images are divided by it, but is {values!r}')
    if (config.get('mean') is None) != (config.get('std') is None):
        raise ConfigError(f'{key} has one of mean and std; set both or neither')
    num_classes = config.get('num_classes')
    if num_classes is not None and (not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 1):
        raise ConfigError(f'{key}.num_classes must be a positive integer, but is {num_classes!r}')


@dataclass(frozen=True)
class InputStatistics:
    """Normalization of a model's input.

    Attributes:
        mean: Mean of each channel, subtracted; in image units (0 to 255). Default: 0.
        std: Standard deviation of each channel, the divisor. Default: 1.
        flipped: Whether the channel order is reversed first (BGR images to RGB). Default: False.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    flipped: bool = False

    @classmethod
    def from_preprocessor(cls, preprocessor: nn.Module) -> 'InputStatistics':
        """Read mmpretrain's ``ClsDataPreprocessor`` or mmengine's ``ImgDataPreprocessor``."""
        flipped = bool(getattr(preprocessor, 'to_rgb', False) or getattr(preprocessor, '_channel_conversion', False))
        if not getattr(preprocessor, '_enable_normalize', False):
            return cls(flipped=flipped)
        return cls(*(tuple(values.flatten().tolist()) for values in (preprocessor.mean, preprocessor.std)), flipped)


class Renormalize(nn.Module):
    """Convert images normalized for the student into the same images normalized for the teacher.

    Mixup and CutMix are linear in the pixels, so the teacher gets exactly the mixed images that the student gets.

    Args:
        student: Normalization of the images.
        teacher: Normalization that the teacher expects.
    """

    def __init__(self, student: InputStatistics, teacher: InputStatistics) -> None:
        super().__init__()
        self.flip = student.flipped != teacher.flipped
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (student.mean, student.std))
        if self.flip:
            mean, std = mean.flip(0), std.flip(0)
        teacher_mean, teacher_std = (torch.tensor(values, dtype=torch.float64) for values in (teacher.mean, teacher.std))
        scale, shift = std / teacher_std, (mean - teacher_mean) / teacher_std
        self.identity = bool((scale == 1).all() and (shift == 0).all())
        self.register_buffer('scale', scale.to(torch.get_default_dtype()).view(-1, 1, 1), persistent=False)
        self.register_buffer('shift', shift.to(torch.get_default_dtype()).view(-1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Convert images ``(B, 3, H, W)``, or ``(B, 1, H, W)``, whose channels are not flipped."""
        if self.flip and images.shape[1] == 3:
            images = images.flip(1)
        return images if self.identity else images * self.scale + self.shift
