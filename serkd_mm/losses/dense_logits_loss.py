from collections.abc import Mapping

import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS

from ..ops.precision import at_least_float32
from .base_loss import BaseDistillationLoss, check_weight


@MODELS.register_module()
class DenseLogitsLoss(BaseDistillationLoss):
    r"""Cross-entropy with the teacher's class at every position: the third term of CSKD (Zhao et al., arXiv:2307.08500).

    Dense logits are a classifier's output at every position of the features. With z, the logits at position l, and r, the
    ratio,

    .. math::
        \mathcal L = - \frac{1}{B L} \sum_{b, l} \log \mathrm{softmax}(z^s_{b,l})_{k(b,l)}, \qquad
        k(b, l) = \arg\max \Big( r \, z^t_{b,l} + (1 - r) \, \frac 1 L \sum_{l'} z^t_{b,l'} \Big).

    The authors let the ratio decay from 1, each position's own class, to 0, the class of the whole image:
    ``ratio=dict(type='Linear', begin=1.0, end=0.0)``. CSKD's other terms are ``loss_cls`` and :class:`HardLabelLoss`.

    Put it on a view of a tap that applies the classifier at every position, see :mod:`serkd_mm.distillers.taps`. The mean of
    the dense logits, which the authors use as the global ones, equals the teacher's prediction where its classifier is
    linear and follows the average over positions, as in most CNNs. It differs where a norm or another layer stands between
    the two, or where the teacher predicts from a class token.

    Args:
        ratio: Share r of each position's own logits, from 0 to 1: a number, or a schedule over the training, see
            :mod:`serkd_mm.losses.schedules`. Default: 1.0.
        loss_weight: Factor of the loss. Default: 1.0.

    Raises:
        ValueError: ``ratio`` is not a number from 0 to 1 or a schedule of them, or ``loss_weight`` is negative.
    """

    def __init__(self, ratio: float | Mapping = 1.0, loss_weight: float = 1.0) -> None:
        super().__init__(loss_weight)
        self.set_scheduled('ratio', ratio, check_share)

    def compare(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Compare dense logits ``(B, L, K)`` with ``(B, L, K)`` of the same classes.

        Raises:
            ValueError: The shapes differ or are not 3-D.
        """
        if student.ndim != 3 or student.shape != teacher.shape:
            raise ValueError(
                f'DenseLogitsLoss compares logits (B, L, K) of the same K classes at L positions, but got student '
                f'{tuple(student.shape)} and teacher {tuple(teacher.shape)}. Put it on a view of a tap that applies the '
                "classifier at every position, such as 'backbone.layer4 | head.fc'"
            )
        teacher = at_least_float32(teacher)
        classes = teacher.mean(dim=1, keepdim=True).lerp(teacher, self.ratio).argmax(dim=2)
        return F.cross_entropy(at_least_float32(student).flatten(0, 1), classes.flatten())

    def extra_repr(self) -> str:
        return f'ratio={self.schedules.get("ratio", self.ratio)}, {super().extra_repr()}'


def check_share(name: str, value: float) -> float:
    """Check the setting ``name`` that is a share of a whole, and return it.

    Raises:
        ValueError: It is not a number from 0 to 1.
    """
    if check_weight(name, value) > 1:
        raise ValueError(f'{name} must be a number from 0 to 1, but got {value!r}')
    return value
