import torch
from mmpretrain.registry import MODELS

from ..ops import angle_relation_loss, distance_relation_loss
from .base_loss import BaseDistillationLoss


@MODELS.register_module()
class TokenDistanceLoss(BaseDistillationLoss):
    """Distances between the tokens of each image, equation 10 of SeRKD; see :func:`serkd_mm.ops.distance_relation_loss`.

    Args:
        loss_weight: The paper's lambda_D, 0.5 in its experiments. Default: 1.0.
    """

    def compare(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Compare tokens ``(B, L, C_s)`` with ``(B, L, C_t)``; raises ``ValueError`` if B or L differ."""
        return distance_relation_loss(student, teacher)


@MODELS.register_module()
class TokenAngleLoss(BaseDistillationLoss):
    """Angles between the tokens of each image, equation 11 of SeRKD; see :func:`serkd_mm.ops.angle_relation_loss`.

    Args:
        loss_weight: The paper's lambda_A, 1 in its experiments. Default: 1.0.
    """

    def compare(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Compare tokens ``(B, L, C_s)`` with ``(B, L, C_t)``; raises ``ValueError`` if B or L differ."""
        return angle_relation_loss(student, teacher)
