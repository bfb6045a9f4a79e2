from numbers import Real

import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS

from ..ops.precision import at_least_float32
from .base_loss import BaseDistillationLoss


@MODELS.register_module()
class LogitKLLoss(BaseDistillationLoss):
    """Kullback-Leibler divergence of the softened predictions, KL(teacher || student): L_KD of equation 13.

    Choices: equation 13 sums over images; as everywhere in the field, and as for the paper's other losses, this is the mean
    over the batch. The result is multiplied by tau^2 [1], which keeps the size of the gradient when tau changes; the paper
    names no factor, and at tau = 1 both readings agree.

    Args:
        tau: Temperature that divides both logits.
        loss_weight: The paper's lambda_K, 1 in its experiments (Table VII).

    Raises:
        ValueError: ``tau`` is not a positive finite number, or ``loss_weight`` is negative.
    """

    def __init__(self, tau: float = 1.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        if not isinstance(tau, Real) or not 0 < tau < float('inf'):
            raise ValueError(f'tau must be a positive finite number, but got {tau!r}')
        self.tau = tau

    def compare(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, K)`` against logits ``(B, K)`` of the same classes, computed in float32.

        Raises:
            ValueError: The shapes differ or are not 2-D.
        """
        if student.ndim != 2 or student.shape != teacher.shape:
            raise ValueError(
                'LogitKLLoss compares logits (B, K) of the same K classes, '
                f'but got student {tuple(student.shape)} and teacher {tuple(teacher.shape)}'
            )
        student_log_prob = F.log_softmax(at_least_float32(student) / self.tau, dim=1)
        teacher_log_prob = F.log_softmax(at_least_float32(teacher) / self.tau, dim=1)
        divergence = F.kl_div(student_log_prob, teacher_log_prob, reduction='batchmean', log_target=True)
        return divergence * self.tau**2

    def extra_repr(self) -> str:
        return f'tau={self.tau}, {super().extra_repr()}'
