import torch
from mmpretrain.models import LeViTClsHead
from mmpretrain.registry import MODELS

from .distilled_head import DistilledHead


@MODELS.register_module()
class LeViTDistilledClsHead(DistilledHead, LeViTClsHead):
    """mmpretrain's ``LeViTClsHead``, made trainable.

    Both classifiers read the pooled features. ``head.head`` learns the labels and ``head.head_dist`` the teacher: the tap
    for losses between logits. With ``distillation=False`` there is the first alone.

    Args:
        distilled_training: See :class:`DistilledHead`.
        kwargs: As ``LeViTClsHead``: ``num_classes``, ``in_channels``, ``distillation``, ``loss``, ...
    """

    def classify(self, feats: tuple) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits ``(B, num_classes)`` for the labels and, with ``distillation``, for the teacher."""
        features = self.pre_logits(feats)
        return self.head(features), self.head_dist(features) if self.distillation else None
