import torch
from mmpretrain.models import EfficientFormerClsHead
from mmpretrain.registry import MODELS

from .distilled_head import DistilledHead


@MODELS.register_module()
class EfficientFormerDistilledClsHead(DistilledHead, EfficientFormerClsHead):
    """mmpretrain's ``EfficientFormerClsHead``, made trainable.

    Both classifiers read the pooled features. ``head.head`` learns the labels and ``head.dist_head`` the teacher: the tap
    for losses between logits. With ``distillation=False`` there is the first alone.

    Args:
        distilled_training: See :class:`DistilledHead`.
        kwargs: As ``EfficientFormerClsHead``: ``num_classes``, ``in_channels``, ``distillation``, ``loss``, ...
    """

    def classify(self, feats: tuple) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits ``(B, num_classes)`` for the labels and, with ``distillation``, for the teacher."""
        features = self.pre_logits(feats)
        return self.head(features), self.dist_head(features) if self.dist else None
