from abc import abstractmethod

import torch
from mmpretrain.registry import MODELS

from ..ops.relations import angle_relation_loss, distance_relation_loss
from .base_loss import BaseDistillationLoss


class InstanceRelationLoss(BaseDistillationLoss):
    """Relations between the images of a batch: relational knowledge distillation, RKD [15] (paper, section III-A).

    One definition with the token losses: the batch is taken as the tokens of a single image. On several ranks each relates
    the images of its own batch, as RKD's own code does.

    Args:
        loss_weight: Factor of the loss.
    """

    @abstractmethod
    def relate(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """The loss between ``(1, B, C_s)`` and ``(1, B, C_t)``."""

    def compare(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """One feature per image, ``(B, ...)`` against ``(B, ...)``; what follows the batch is flattened.

        Raises:
            ValueError: The batches differ, or an image has no feature vector.
        """
        if student.ndim < 2 or teacher.ndim < 2:
            raise ValueError(
                f'{type(self).__name__} compares features (B, C_s) with (B, C_t), '
                f'but got student {tuple(student.shape)} and teacher {tuple(teacher.shape)}'
            )
        return self.relate(student.flatten(1)[None], teacher.flatten(1)[None])


@MODELS.register_module()
class InstanceDistanceLoss(InstanceRelationLoss):
    """Distances between the images of a batch, equations 1 and 2; see :func:`serkd_mm.ops.distance_relation_loss`."""

    def relate(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return distance_relation_loss(student, teacher)


@MODELS.register_module()
class InstanceAngleLoss(InstanceRelationLoss):
    """Angles between the images of a batch, equations 2 and 3; see :func:`serkd_mm.ops.angle_relation_loss`."""

    def relate(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return angle_relation_loss(student, teacher)
