import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS

from ..ops.precision import at_least_float32
from .base_loss import BaseDistillationLoss
from .lazy_linear import lazy_linear


@MODELS.register_module()
class FeatureL2Loss(BaseDistillationLoss):
    """Mean squared error between tokens: L_F of equation 12.

    The paper calls L_F "the L2 loss between student feature and teacher feature" and does not say how features of
    different width are compared: here, as in FitNet [52], a linear map takes the student's to the teacher's channels. It
    is made at the first call, when both widths are known (the distiller makes that call while it is built), is trained
    with the student, and is saved under ``distill.``.

    Args:
        loss_weight: The paper's lambda_F, 1 in its experiments.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.register_module('projector', None)

    def compare(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Tokens ``(B, L, C_s)`` against ``(B, L, C_t)``.

        Raises:
            ValueError: B or L differ, or a width is not that of the first call.
        """
        if student.shape[:-1] != teacher.shape[:-1]:
            raise ValueError(
                'FeatureL2Loss compares tokens (B, L, C_s) with (B, L, C_t) of equal B and L, '
                f'but got student {tuple(student.shape)} and teacher {tuple(teacher.shape)}'
            )
        student = at_least_float32(student)
        projector = lazy_linear(self, 'projector', student, teacher.shape[-1])
        return F.mse_loss(at_least_float32(projector(student)), at_least_float32(teacher))
