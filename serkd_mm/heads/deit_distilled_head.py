import torch
from mmpretrain.models import DeiTClsHead
from mmpretrain.registry import MODELS

from .distilled_head import DistilledHead


@MODELS.register_module()
class DeiTDistilledClsHead(DistilledHead, DeiTClsHead):
    """mmpretrain's ``DeiTClsHead``, made trainable (DeiT [24], section 4; SeRKD, section V-A).

    The class token learns the labels, ``head.layers.head``, and the distillation token learns the teacher,
    ``head.layers.head_dist``: the tap for losses between logits.

    Args:
        distilled_training: See :class:`DistilledHead`.
        kwargs: As ``DeiTClsHead``: ``num_classes``, ``in_channels``, ``hidden_dim``, ``loss``, ...
    """

    def classify(self, feats: tuple) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``(B, num_classes)`` of the class token and of the distillation token."""
        class_token, distillation_token = self.pre_logits(feats)
        return self.layers.head(class_token), self.layers.head_dist(distillation_token)
