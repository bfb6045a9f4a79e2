"""What a data preprocessor makes of an image, and the way from one such form to another."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class InputStatistics:
    """Normalisation of a model's input.

    Attributes:
        mean: Subtracted from each channel, in units of the image (0 to 255).
        std: Divides each channel.
        flipped: Whether the channel order is turned around (BGR images to RGB) before that.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    flipped: bool = False

    @classmethod
    def of(cls, preprocessor: nn.Module) -> 'InputStatistics':
        """Read mmpretrain's ``ClsDataPreprocessor`` or mmengine's ``ImgDataPreprocessor``."""
        flipped = getattr(preprocessor, 'to_rgb', False) or getattr(preprocessor, '_channel_conversion', False)
        if not getattr(preprocessor, '_enable_normalize', False):
            return cls(flipped=bool(flipped))
        return cls(
            mean=tuple(preprocessor.mean.flatten().tolist()),
            std=tuple(preprocessor.std.flatten().tolist()),
            flipped=bool(flipped),
        )


class Renormalise(nn.Module):
    """Turn images normalised for the student into the same images normalised for the teacher.

    Mixup and CutMix are linear in the pixels, so the teacher sees exactly the mixed images that the student sees.

    Args:
        student: What was done to the images.
        teacher: What the teacher expects.
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
        self.register_buffer('scale', scale.float().view(-1, 1, 1), persistent=False)
        self.register_buffer('shift', shift.float().view(-1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images ``(B, 3, H, W)``, or ``(B, 1, H, W)``, whose channels are never flipped."""
        if self.flip and images.shape[1] == 3:
            images = images.flip(1)
        return images if self.identity else images * self.scale + self.shift
