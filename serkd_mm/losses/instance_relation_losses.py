from abc import abstractmethod

import torch
from mmpretrain.registry import MODELS

from ..ops import angle_relation_loss, distance_relation_loss
from .base_loss import BaseDistillationLoss


class InstanceRelationLoss(BaseDistillationLoss):
    """Relations between the images of a batch: RKD (Park et al., arXiv:1904.05068).

    The definition is that of the token losses, with the images of a batch as the tokens of a single image. With several
    ranks, each relates the images of its own batch, as the code of RKD's authors does.

    Args:
        loss_weight: Factor of the loss; RKD's authors use 25 for distances and 50 for angles. Default: 1.0.
    """

    @abstractmethod
    def relate(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Compute the loss between ``(1, B, C_s)`` and ``(1, B, C_t)``."""

    def compare(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Compare one feature per image, ``(B, ...)`` with ``(B, ...)``; dimensions after the batch are flattened.

        Raises:
            ValueError: The batch sizes differ, or a side is not at least 2-D.
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
