import torch
from mmpretrain.registry import MODELS

from .token_relation_losses import TokenAngleLoss, TokenDistanceLoss


@MODELS.register_module()
class InstanceDistanceLoss(TokenDistanceLoss):
    """Distances between the images of a batch: RKD-D (Park et al., arXiv:1904.05068), equations 1 and 2 of SeRKD.

    The definition is that of the token loss, with the images of a batch as the tokens of a single image. With several ranks,
    each relates the images of its own batch, as the code of RKD's authors does.

    Args:
        loss_weight: Factor of the loss; RKD's authors use 25. Default: 1.0.
    """

    min_tokens, min_batch_size = 1, TokenDistanceLoss.min_tokens  # The last batch of an epoch may be smaller.
    teacher_content = 'features'

    def compare(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Compare one feature per image, ``(B, ...)`` with ``(B, ...)``; dimensions after the batch are flattened.

        Raises:
            ValueError: The batch sizes differ, or a side is not at least 2-D.
        """
        return super().compare(*_images_as_tokens(type(self).__name__, student, teacher))


@MODELS.register_module()
class InstanceAngleLoss(TokenAngleLoss):
    """Angles between the images of a batch: RKD-A (Park et al., arXiv:1904.05068), equations 2 and 3 of SeRKD.

    Args:
        loss_weight: Factor of the loss; RKD's authors use 50. Default: 1.0.
        min_distance: As for :class:`TokenAngleLoss`, relative to the batch. Default: 0, no floor.
    """

    min_tokens, min_batch_size = 1, TokenAngleLoss.min_tokens
    teacher_content = 'features'

    def compare(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Compare as :meth:`InstanceDistanceLoss.compare` does."""
        return super().compare(*_images_as_tokens(type(self).__name__, student, teacher))


def _images_as_tokens(name: str, student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens ``(1, B, C_s)`` and ``(1, B, C_t)`` of a single image from one feature per image."""
    if student.ndim < 2 or teacher.ndim < 2:
        raise ValueError(
            f'{name} compares features (B, C_s) with (B, C_t), '
            f'but got student {tuple(student.shape)} and teacher {tuple(teacher.shape)}'
        )
    return student.flatten(1)[None], teacher.flatten(1)[None]
