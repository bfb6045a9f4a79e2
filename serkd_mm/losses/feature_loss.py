import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS
from torch import nn

from ..lazy_layers import build_on_first_input
from ..ops.precision import at_least_float32
from .base_loss import BaseDistillationLoss


class MappedFeaturesLoss(BaseDistillationLoss):
    """Base class of losses that map the student's features linearly to the teacher's channels.

    Args:
        loss_weight: Factor of the loss. Default: 1.0.

    Attributes:
        projector: The linear layer, built at the first call.
        num_dims: Number of dimensions of the features; None for any.
    """

    teacher_content = 'tokens'
    num_dims: int | None = None

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.register_module('projector', None)

    def check_shapes(self, student: torch.Tensor, teacher: torch.Tensor) -> None:
        """Check that features ``(B, L, C_s)`` and ``(B, L, C_t)`` can be compared.

        Raises:
            ValueError: B or L differ, or the number of dimensions is another.
        """
        if self.num_dims not in (None, student.ndim) or student.shape[:-1] != teacher.shape[:-1]:
            raise ValueError(
                f'{type(self).__name__} compares tokens (B, L, C_s) with (B, L, C_t) of equal B and L, '
                f'but got student {tuple(student.shape)} and teacher {tuple(teacher.shape)}'
            )

    def map_student(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Map ``(B, L, C_s)`` to ``(B, L, C_t)``, in float32 or better.

        Raises:
            ValueError: A width differs from that of the first call.
        """
        student = at_least_float32(student)
        widths = (student.shape[-1], teacher.shape[-1])
        return at_least_float32(build_on_first_input(self, 'projector', student, widths, nn.Linear)(student))


@MODELS.register_module()
class FeatureL2Loss(MappedFeaturesLoss):
    """Mean squared error between tokens: L_F of equation 12 of SeRKD (arXiv:2503.21269).

    The paper calls L_F "the L2 loss between student feature and teacher feature" and does not say how features of
    different width are compared. Choice: as in FitNet (Romero et al., arXiv:1412.6550), a linear layer maps the student's
    channels to the teacher's. It is built at the first call, trained with the student, and saved under ``distill.``.

    Args:
        loss_weight: The paper's lambda_F, 1 in its experiments. Default: 1.0.
    """

    def compare(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Compare tokens ``(B, L, C_s)`` with ``(B, L, C_t)``.

        Raises:
            ValueError: B or L differ, or a width differs from that of the first call.
        """
        self.check_shapes(student, teacher)
        return F.mse_loss(self.map_student(student, teacher), at_least_float32(teacher))
