from abc import abstractmethod

import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS

from ..ops.precision import at_least_float32
from .base_loss import BaseDistillationLoss, check_tau


class LogitLoss(BaseDistillationLoss):
    """Base class of losses between the predictions of both sides for the same classes.

    Args:
        loss_weight: Factor of the loss. Default: 1.0.
    """

    teacher_content = 'logits'

    @abstractmethod
    def divergence(self, student: torch.Tensor, teacher: torch.Tensor, *target: torch.Tensor) -> torch.Tensor:
        """Compute the loss between logits ``(B, K)`` and ``(B, K)`` in float32 or better.

        ``target`` is the labels ``(B, K)``, one argument, if the loss ``needs_labels``; otherwise nothing.
        """

    def compare(self, student: torch.Tensor, teacher: torch.Tensor, *target: torch.Tensor) -> torch.Tensor:
        """Compare logits ``(B, K)`` with logits ``(B, K)`` of the same classes.

        Raises:
            ValueError: The shapes differ or are not 2-D.
        """
        if student.ndim != 2 or student.shape != teacher.shape:
            raise ValueError(
                f'{type(self).__name__} compares logits (B, K) of the same K classes, '
                f'but got student {tuple(student.shape)} and teacher {tuple(teacher.shape)}. The setting `classes` of the '
                "teacher selects those of its classes that are the student's"
            )
        return self.divergence(at_least_float32(student), at_least_float32(teacher), *target)


@MODELS.register_module()
class LogitKLLoss(LogitLoss):
    r"""Kullback-Leibler divergence of the softened predictions: L_KD of equation 13 of SeRKD (arXiv:2503.21269).

    .. math::
        \mathcal L_{KD} = \frac{\tau^2}{B} \sum_b \mathrm{KL}\Big(
            \mathrm{softmax}(l_t / \tau) \,\Big\Vert\, \mathrm{softmax}(l_s / \tau)\Big)

    Choices: equation 13 sums over images; this is the mean over the batch, as is usual and as for the paper's other losses.
    The factor tau^2 (KD, Hinton et al., arXiv:1503.02531) keeps the size of the gradient when tau changes; the paper names
    no factor, and at tau = 1 both readings agree.

    Args:
        tau: Temperature that divides both logits. Default: 1.0.
        loss_weight: The paper's lambda_K, 1 in its experiments (Table VII). Default: 1.0.

    Raises:
        ValueError: ``tau`` is not a positive finite number, or ``loss_weight`` is negative.
    """

    def __init__(self, tau: float = 1.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.tau = check_tau('tau', tau)

    def divergence(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        student_log_prob = F.log_softmax(student / self.tau, dim=1)
        teacher_log_prob = F.log_softmax(teacher / self.tau, dim=1)
        return F.kl_div(student_log_prob, teacher_log_prob, reduction='batchmean', log_target=True) * self.tau**2

    def extra_repr(self) -> str:
        return f'tau={self.tau}, {super().extra_repr()}'


@MODELS.register_module()
class HardLabelLoss(LogitLoss):
    """Cross-entropy with the class that the teacher predicts: hard distillation (DeiT, arXiv:2012.12877, equation 3).

    With Mixup or CutMix the teacher predicts one class for the mixed image, as in DeiT. DeiT halves both this loss and the
    student's own: set ``loss_weight=0.5`` here, and in the student's head.

    Args:
        loss_weight: Factor of the loss. Default: 1.0.
    """

    teacher_content = 'class'

    def divergence(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(student, teacher.argmax(dim=1))
