import torch
from mmpretrain.models import EfficientFormerClsHead
from mmpretrain.registry import MODELS

from .distilled_head import DistilledHead


@MODELS.register_module()
class EfficientFormerDistilledClsHead(DistilledHead, EfficientFormerClsHead):
    """Trainable version of mmpretrain's ``EfficientFormerClsHead``.

    Both classifiers read the pooled features: ``head.head`` learns the labels, and ``head.dist_head`` learns the teacher and
    is the tap for losses between logits. With ``distillation=False`` there is only the first.

    Args:
        distilled_training: See :class:`DistilledHead`. Default: True.
        kwargs: As for ``EfficientFormerClsHead``: ``num_classes``, ``in_channels``, ``distillation``, ``loss``, ...
    """

    def classify(self, feats: tuple) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the logits ``(B, num_classes)`` for the labels and, with ``distillation``, for the teacher."""
        features = self.pre_logits(feats)
        return self.head(features), self.dist_head(features) if self.dist else None
