from abc import ABCMeta, abstractmethod
from collections.abc import Mapping
from numbers import Real

import torch
from torch import nn

from .schedules import ScheduledSettings


class BaseDistillationLoss(ScheduledSettings, nn.Module, metaclass=ABCMeta):
    """Base class of losses: a weighted comparison of the student's features with the teacher's.

    Args:
        loss_weight: Factor of the loss, the lambda of the papers: a number, or a schedule over the training,
            ``dict(type='Linear', begin=1.0, end=0.0)``, see :mod:`serkd_mm.losses.schedules`. Default: 1.0.

    Attributes:
        needs_labels: Whether the loss is called with the labels as a third argument: probabilities of the classes
            ``(B, K)``, one-hot or as Mixup makes them.
        min_batch_size: Images per batch and rank below which the loss is always 0, whatever the features.
        teacher_content: What a cache of the teacher's outputs must keep for this loss: 'features', the tensor that it reads;
            'tokens', the same up to the rounding of a principal component basis; 'relations', distances and angles between
            the tokens of an image up to a common scale; 'mean', the mean over positions; 'logits'; or 'class', the
            class of the largest logit. None: the loss cannot be computed from a cache.

    Raises:
        ValueError: ``loss_weight`` is negative, infinite or not a number.
    """

    needs_labels = False
    min_batch_size = 1
    teacher_content: str | None = 'features'

    def __init__(self, loss_weight: float | Mapping = 1.0) -> None:
        super().__init__()
        self.set_scheduled('loss_weight', loss_weight, check_weight)

    @abstractmethod
    def compare(self, student: torch.Tensor, teacher: torch.Tensor, *target: torch.Tensor) -> torch.Tensor:
        """Compute the 0-d loss without its weight; ``teacher`` is detached.

        Args:
            student: The student's features.
            teacher: The teacher's features.
            target: The labels ``(B, K)``, one argument, if the loss ``needs_labels``; otherwise nothing.
        """

    def forward(self, student: torch.Tensor, teacher: torch.Tensor, *target: torch.Tensor) -> torch.Tensor:
        """Compute the weighted 0-d loss of the student's features against the teacher's."""
        return self.loss_weight * self.compare(student, teacher.detach(), *target)

    def extra_repr(self) -> str:
        return f'loss_weight={self.schedules.get("loss_weight", self.loss_weight)}'


def check_weight(name: str, value: float) -> float:
    """Check the weight ``value`` of the setting ``name``, and return it.

    Raises:
        ValueError: It is negative, infinite or not a number.
    """
    if not _is_number(value) or not 0 <= value < float('inf'):
        raise ValueError(f'{name} must be a finite number that is not negative, but got {value!r}')
    return value


def check_tau(name: str, value: float) -> float:
    """Check the temperature ``value`` of the setting ``name``, and return it.

    Raises:
        ValueError: It is not positive, infinite or not a number.
    """
    if not _is_number(value) or not 0 < value < float('inf'):
        raise ValueError(f'{name} must be a positive finite number, but got {value!r}')
    return value


def check_size(name: str, value: int, minimum: int = 1) -> int:
    """Check the setting ``name`` that counts something, and return it.

    Raises:
        ValueError: It is not an integer, or smaller than ``minimum``.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        expected = 'a positive integer' if minimum == 1 else f'an integer of at least {minimum}'
        raise ValueError(f'{name} must be {expected}, but got {value!r}')
    return value


def _is_number(value: object) -> bool:
    """Whether a setting is a number; True and False are not, although Python counts with them."""
    return isinstance(value, Real) and not isinstance(value, bool)
