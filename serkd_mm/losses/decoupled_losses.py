"""Losses that separate the class of the label from the other classes: DKD and NKD."""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS

from .base_loss import check_tau, check_weight
from .logit_losses import LogitLoss


class DecoupledLoss(LogitLoss):
    """Base class of losses that compare the class of the label and the other classes separately.

    The class of an image is the arg max of its label; of a mixed image, the class with the larger share, and the first of
    equal ones. A cache keeps all logits for these losses: what it keeps of the largest ones alone spreads the rest evenly,
    and the class of the label may be in the rest.

    Args:
        tau: Temperature. Default: 1.0.
        loss_weight: Factor of the loss. Default: 1.0.
    """

    needs_labels = True
    teacher_content = 'features'

    def __init__(self, tau: float = 1.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.tau = check_tau('tau', tau)

    @abstractmethod
    def decoupled(self, student: torch.Tensor, teacher: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Compute the loss between logits ``(B, K)``, for the class of each image ``(B, 1)``."""

    def divergence(self, student: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compare logits ``(B, K)`` for labels ``(B, K)``.

        Raises:
            ValueError: The labels have another shape, or there is only one class.
        """
        if target.shape != student.shape or student.shape[1] < 2:
            raise ValueError(
                f'{type(self).__name__} needs labels (B, K) of the classes of the logits, at least two, but got logits '
                f'{tuple(student.shape)} and labels {tuple(target.shape)}'
            )
        return self.decoupled(student, teacher, target.argmax(dim=1, keepdim=True))


@MODELS.register_module()
class DKDLoss(DecoupledLoss):
    r"""Decoupled Knowledge Distillation, DKD (Zhao et al., arXiv:2203.08679).

    With p = softmax(z / tau), y the class of the label, b = (p_y, 1 - p_y), and q the softmax of z / tau over the classes
    other than y,

    .. math::
        \mathcal L = \frac{\tau^2}{B} \sum_i \Big( \alpha \, \mathrm{KL}(b^t \,\Vert\, b^s)
            + \beta \, \mathrm{KL}(q^t \,\Vert\, q^s) \Big).

    Both parts are computed from logarithms of probabilities, so they are finite where a probability underflows.

    Args:
        alpha: Factor of the part of the label's class. Default: 1.0.
        beta: Factor of the part of the other classes. Default: 0.5, the authors' for ResNet-34 and ResNet-18 on ImageNet.
        tau: Temperature that divides both logits. Default: 1.0.
        loss_weight: Factor of the loss. Default: 1.0.

    Raises:
        ValueError: ``alpha``, ``beta`` or ``loss_weight`` is negative, infinite or not a number, or ``tau`` is not a
            positive finite number.
    """

    def __init__(self, alpha: float = 1.0, beta: float = 0.5, tau: float = 1.0, loss_weight: float = 1.0) -> None:
        super().__init__(tau, loss_weight)
        self.alpha, self.beta = check_weight('alpha', alpha), check_weight('beta', beta)

    def decoupled(self, student: torch.Tensor, teacher: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        student, teacher = student / self.tau, teacher / self.tau
        of_student, of_teacher = _log_odds(student, classes), _log_odds(teacher, classes)
        target_part = sum(
            torch.sigmoid(sign * of_teacher) * (F.logsigmoid(sign * of_teacher) - F.logsigmoid(sign * of_student))
            for sign in (1, -1)  # The class of the label, and all others together.
        ).mean()
        other_part = F.kl_div(
            _log_prob_of_others(student, classes),
            _log_prob_of_others(teacher, classes),
            reduction='batchmean',
            log_target=True,
        )
        return self.tau**2 * (self.alpha * target_part + self.beta * other_part)

    def extra_repr(self) -> str:
        return f'alpha={self.alpha}, beta={self.beta}, tau={self.tau}, {super().extra_repr()}'


@MODELS.register_module()
class NKDLoss(DecoupledLoss):
    r"""Normalized Knowledge Distillation, NKD (Yang et al., arXiv:2303.13005).

    With p = softmax(z), y the class of the label, and q the softmax of z / tau over the classes other than y,

    .. math::
        \mathcal L = - \frac 1 B \sum_i \Big( p^t_y \log p^s_y + \gamma \, \tau^2 \sum_{k \ne y} q^t_k \log q^s_k \Big).

    The first part alone is smallest at p_y of the student = 1, not at that of the teacher. So the loss of equal predictions
    is not 0 and has a gradient, which raises p_y as a label does, weighted by the teacher's p_y.

    Args:
        gamma: Factor of the part of the other classes. Default: 1.5, the authors' for convolutional networks.
        tau: Temperature of the other classes alone. Default: 1.0.
        loss_weight: Factor of the loss. Default: 1.0.

    Raises:
        ValueError: ``gamma`` or ``loss_weight`` is negative, infinite or not a number, or ``tau`` is not a positive finite
            number.
    """

    def __init__(self, gamma: float = 1.5, tau: float = 1.0, loss_weight: float = 1.0) -> None:
        super().__init__(tau, loss_weight)
        self.gamma = check_weight('gamma', gamma)

    def decoupled(self, student: torch.Tensor, teacher: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        target_part = torch.sigmoid(_log_odds(teacher, classes)) * F.logsigmoid(_log_odds(student, classes))
        teacher_prob = _log_prob_of_others(teacher / self.tau, classes).exp()
        other_part = (teacher_prob * _log_prob_of_others(student / self.tau, classes)).sum(dim=1)
        return -(target_part + self.gamma * self.tau**2 * other_part).mean()

    def extra_repr(self) -> str:
        return f'gamma={self.gamma}, tau={self.tau}, {super().extra_repr()}'


def _log_odds(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Log of p_y / (1 - p_y) for each image, ``(B,)``: p_y is its sigmoid, exact also where p_y rounds to 0 or 1."""
    return logits.gather(1, classes).squeeze(1) - logits.scatter(1, classes, -torch.inf).logsumexp(dim=1)


def _log_prob_of_others(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Logarithms of the softmax over the other classes ``(B, K)``; 0, a constant, at the class itself."""
    return logits.scatter(1, classes, -torch.inf).log_softmax(dim=1).scatter(1, classes, 0.0)
