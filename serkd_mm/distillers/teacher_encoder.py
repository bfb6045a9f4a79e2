"""A teacher, and the bytes that a cache stores of its outputs."""

import hashlib
import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import nn

from ..teacher_cache.formats import RecordFormat
from .cache_plan import TeacherOutput
from .frozen_teacher import FrozenTeacher
from .targets import GridShape


class TeacherEncoder:
    """Compute the outputs of a teacher that a cache holds, and encode them.

    Args:
        teacher: The teacher; its taps are named by their module paths.
        outputs: The outputs.

    Attributes:
        formats: How each output is stored; None until it is known.
    """

    def __init__(self, teacher: FrozenTeacher, outputs: Sequence[TeacherOutput]) -> None:
        self.teacher, self.outputs = teacher, list(outputs)
        self.formats: list[RecordFormat | None] = [None] * len(self.outputs)

    @torch.no_grad()
    def compute(self, inputs: torch.Tensor) -> list[tuple[torch.Tensor, GridShape | None]]:
        """Compute each output, with rows and columns of its grid.

        Args:
            inputs: Images ``(B, 3, H, W)``, normalized for the student.
        """
        features = self.teacher(inputs)
        for output in self.outputs:
            for module in output.modules:
                module.to(inputs.device).eval()
        return [output.compute(features) for output in self.outputs]

    def __call__(self, inputs: torch.Tensor) -> np.ndarray:
        """Compute the payloads of records, uint8 ``(B, bytes)``, of images ``(B, 3, H, W)`` normalized for the student.

        Raises:
            ValueError: An output cannot be stored in its format.
        """
        computed = self.compute(inputs)
        parts = [form.encode(tensor) for form, (tensor, _) in zip(self.formats, computed, strict=True)]
        return np.concatenate(parts, axis=1)

    def seconds_per_image(self, inputs: torch.Tensor) -> float:
        """Time the outputs of a batch, and their encoding where the format is known. The second of two runs counts."""
        for _ in range(2):
            start = time.perf_counter()
            for form, (tensor, _) in zip(self.formats, self.compute(inputs), strict=True):
                tensor.sum().item()  # Waits for the device.
                with suppress(ValueError):  # Outputs for generated images may leave the range of a format.
                    if form is not None:
                        form.encode(tensor)
        return (time.perf_counter() - start) / len(inputs)


def state_sha256(model: nn.Module) -> str:
    """Return a hash of all values in a model's state dict, the same on any machine."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
