"""Normalization of a model's input, and the conversion from one normalization to another."""

from dataclasses import dataclass

import torch
from torch import nn


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
