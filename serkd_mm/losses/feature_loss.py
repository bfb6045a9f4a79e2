import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS
from torch import nn

from ..lazy_layers import build_on_first_input
from ..ops.precision import at_least_float32
from .base_loss import BaseDistillationLoss


@MODELS.register_module()
class FeatureL2Loss(BaseDistillationLoss):
    """Mean squared error between tokens: L_F of equation 12 of SeRKD (arXiv:2503.21269).

    The paper calls L_F "the L2 loss between student feature and teacher feature" and does not say how features of
    different width are compared. Choice: as in FitNet (Romero et al., arXiv:1412.6550), a linear layer maps the student's
    channels to the teacher's. It is built at the first call, trained with the student, and saved under ``distill.``.

    Args:
        loss_weight: The paper's lambda_F, 1 in its experiments. Default: 1.0.
    """

    teacher_content = 'tokens'

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.register_module('projector', None)

    def compare(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Compare tokens ``(B, L, C_s)`` with ``(B, L, C_t)``.

        Raises:
            ValueError: B or L differ, or a width differs from that of the first call.
        """
        if student.shape[:-1] != teacher.shape[:-1]:
            raise ValueError(
                'FeatureL2Loss compares tokens (B, L, C_s) with (B, L, C_t) of equal B and L, '
                f'but got student {tuple(student.shape)} and teacher {tuple(teacher.shape)}'
            )
        student = at_least_float32(student)
        widths = (student.shape[-1], teacher.shape[-1])
        projector = build_on_first_input(self, 'projector', student, widths, nn.Linear)
        return F.mse_loss(at_least_float32(projector(student)), at_least_float32(teacher))
