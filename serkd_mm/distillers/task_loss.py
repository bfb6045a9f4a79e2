"""The student's own task loss: its weight, and the labels that some distillation losses read beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmpretrain.structures import DataSample
from torch import nn

from ..config_errors import ConfigError, check_keys
from ..losses.base_loss import check_weight
from ..losses.schedules import ScheduledSettings
from .model_parts import num_classes_of

TASK_LOSS = 'loss_cls'
_KEY = f'model.losses.{TASK_LOSS}'


class TaskLoss(ScheduledSettings, nn.Module):
    """The weight of the student's task loss, which is computed by its head.

    Args:
        config: ``model.losses.loss_cls``: ``dict(loss_weight=1.0)``, a number or a schedule as for the other losses.
            Default: None, 1.0.

    Raises:
        ConfigError: There is another setting, or the weight is wrong.
    """

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        config = {} if config is None else config
        if isinstance(config, Mapping) and 'type' in config:
            raise ConfigError(
                f"{_KEY} is the student's own task loss, which its head computes; its only setting is loss_weight. Give a "
                f'distillation loss another name than {TASK_LOSS!r}'
            )
        check_keys(config, ['loss_weight'], _KEY)
        try:
            self.set_scheduled('loss_weight', config.get('loss_weight', 1.0), check_weight)
        except ValueError as error:  # Its message starts with the setting.
            raise ConfigError(f'{_KEY}.{error}') from error

    def forward(self, losses: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Weight the outputs of the student's ``loss``, and name the task loss ``loss_cls``.

        Args:
            losses: Losses, whose names have 'loss' in them, and other scalars, by name.
        """
        weighted = {name: self._weighted(value) if 'loss' in name else value for name, value in losses.items()}
        return {TASK_LOSS if name == 'loss' else name: value for name, value in weighted.items()}

    def _weighted(self, value: torch.Tensor | list[torch.Tensor]) -> torch.Tensor | list[torch.Tensor]:
        """Weight a loss, or, as mmengine adds them up, a list of losses."""
        return [self.loss_weight * part for part in value] if isinstance(value, list) else self.loss_weight * value


def num_label_classes(student: nn.Module) -> int:
    """Return how many classes the labels of a student have.

    Args:
        student: The student; where its head does not say it, as ViG's, its preprocessor is asked.

    Raises:
        ConfigError: Neither says it.
    """
    number = num_classes_of(student) or getattr(student.data_preprocessor, 'num_classes', None)
    if not number:
        raise ConfigError(
            f"model.losses: a loss reads labels, and the student's {type(getattr(student, 'head', student)).__name__} does "
            'not say how many classes there are. Set data_preprocessor.num_classes'
        )
    return number


def soft_labels(data_samples: Sequence[DataSample], num_classes: int, device: torch.device) -> torch.Tensor:
    """Return the labels of a batch as probabilities of the classes, float32 ``(B, num_classes)``.

    Args:
        data_samples: With soft labels, as Mixup makes them, or with classes.
        num_classes: Number of classes.
        device: Where to.
    """
    if 'gt_score' in data_samples[0]:
        return torch.stack([sample.gt_score for sample in data_samples]).to(device, torch.float32)
    classes = torch.cat([sample.gt_label for sample in data_samples]).to(device)
    return nn.functional.one_hot(classes, num_classes).float()


def float_labels(data_samples: Sequence[DataSample]) -> Sequence[DataSample]:
    """Return samples whose one-hot labels are not integers, as mmpretrain makes them where a batch is not mixed.

    Args:
        data_samples: Labels of a batch, soft or hard; changed in place.
    """
    for sample in data_samples:
        if 'gt_score' in sample and not sample.gt_score.is_floating_point():
            sample.set_gt_score(sample.gt_score.float())
    return data_samples
