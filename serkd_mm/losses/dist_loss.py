import torch
from mmpretrain.registry import MODELS

from .base_loss import check_tau, check_weight
from .logit_losses import LogitLoss

# Added to the product of two norms, as in the authors' code.
_EPS = 1e-8


@MODELS.register_module()
class DISTLoss(LogitLoss):
    r"""Correlations of the predictions, DIST (Huang et al., arXiv:2205.10536): between classes, and between images.

    With p = softmax(z / tau) and r, Pearson's correlation coefficient,

    .. math::
        \mathcal L = \tau^2 \Big( \beta \, \frac 1 B \sum_b \big(1 - r(p^s_{b,:}, p^t_{b,:})\big)
            + \gamma \, \frac 1 K \sum_k \big(1 - r(p^s_{:,k}, p^t_{:,k})\big) \Big).

    A correlation does not change when the probabilities of one side are scaled or shifted, so the student may be more or
    less confident than the teacher. Adding a constant to the logits of an image changes nothing either.

    The second part relates the images of a batch. On several ranks that is each rank's own batch, as in the authors' code:
    the loss depends on how many images a rank has. A batch of one image has no relation: the part is 1, without a gradient.

    As in the authors' code, 1e-8 is added to the product of the two norms that a correlation is divided by. This moves
    the correlation towards 0 where probabilities hardly vary, such as those of a class that both sides exclude in all
    images of the batch, and keeps it finite where they are constant. A cache keeps all logits for this loss.

    Args:
        beta: Factor of the part between classes. Default: 1.0.
        gamma: Factor of the part between images. Default: 1.0.
        tau: Temperature that divides both logits. Default: 1.0.
        loss_weight: Factor of the loss. Default: 1.0.

    Raises:
        ValueError: ``beta``, ``gamma`` or ``loss_weight`` is negative, infinite or not a number, or ``tau`` is not a
            positive finite number.
    """

    teacher_content = 'features'

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, tau: float = 1.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.beta, self.gamma = check_weight('beta', beta), check_weight('gamma', gamma)
        self.tau = check_tau('tau', tau)

    def divergence(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        student, teacher = (logits.div(self.tau).softmax(dim=1) for logits in (student, teacher))
        between_classes = 1 - _correlation(student, teacher, dim=1).mean()
        between_images = 1 - _correlation(student, teacher, dim=0).mean()
        return self.tau**2 * (self.beta * between_classes + self.gamma * between_images)

    def extra_repr(self) -> str:
        return f'beta={self.beta}, gamma={self.gamma}, tau={self.tau}, {super().extra_repr()}'


def _correlation(first: torch.Tensor, second: torch.Tensor, dim: int) -> torch.Tensor:
    """Pearson's correlation coefficient along a dimension; 0, with gradient 0, where a side is constant."""
    first, second = (values - values.mean(dim, keepdim=True) for values in (first, second))
    norms = torch.linalg.vector_norm(first, dim=dim) * torch.linalg.vector_norm(second, dim=dim)
    return (first * second).sum(dim) / (norms + _EPS)
