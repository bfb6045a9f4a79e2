import torch
from mmpretrain.registry import MODELS

from ..ops import angle_relation_loss, distance_relation_loss
from .base_loss import BaseDistillationLoss, check_weight

# Relations of fewer tokens are constants: one has no pair, and two have a normalized distance of 1 and no angle.
_MIN_TOKENS = 3


@MODELS.register_module()
class TokenDistanceLoss(BaseDistillationLoss):
    """Distances between the tokens of each image, equation 10 of SeRKD; see :func:`serkd_mm.ops.distance_relation_loss`.

    Args:
        loss_weight: The paper's lambda_D, 0.5 in its experiments. Default: 1.0.
    """

    min_tokens = _MIN_TOKENS
    teacher_content = 'relations'

    def compare(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Compare tokens ``(B, L, C_s)`` with ``(B, L, C_t)``; raises ``ValueError`` if B or L differ, or L is below 3."""
        _check_num_tokens(self, student)
        return distance_relation_loss(student, teacher)


@MODELS.register_module()
class TokenAngleLoss(BaseDistillationLoss):
    """Angles between the tokens of each image, equation 11 of SeRKD; see :func:`serkd_mm.ops.angle_relation_loss`.

    Args:
        loss_weight: The paper's lambda_A, 1 in its experiments. Default: 1.0.
        min_distance: Floor under the distances that cosines are divided by, as a share of the image's mean distance. It
            bounds the gradient of an image with two close tokens, and changes the paper's loss. Default: 0, no floor.

    Raises:
        ValueError: ``loss_weight`` or ``min_distance`` is negative, infinite or not a number.
    """

    min_tokens = _MIN_TOKENS
    teacher_content = 'relations'

    def __init__(self, loss_weight: float = 1.0, min_distance: float = 0.0) -> None:
        super().__init__(loss_weight)
        self.min_distance = check_weight('min_distance', min_distance)

    def compare(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Compare tokens ``(B, L, C_s)`` with ``(B, L, C_t)``; raises ``ValueError`` if B or L differ, or L is below 3."""
        _check_num_tokens(self, student)
        return angle_relation_loss(student, teacher, self.min_distance)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, min_distance={self.min_distance}' if self.min_distance else super().extra_repr()


def _check_num_tokens(loss: TokenDistanceLoss | TokenAngleLoss, tokens: torch.Tensor) -> None:
    """Raise if the loss is 0 for any tokens ``(B, L, C)``."""
    if tokens.ndim == 3 and tokens.shape[1] < loss.min_tokens:
        raise ValueError(
            f'{type(loss).__name__} needs at least {loss.min_tokens} tokens of each image, but got {tokens.shape[1]}, for '
            'which it is always 0: one token has no pair, and the normalized distance of two is always 1. Use a smaller '
            'cell or a larger grid in the view, or remove the loss'
        )
