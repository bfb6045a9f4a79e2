import torch
from mmpretrain.models import DeiTClsHead
from mmpretrain.registry import MODELS

from .distilled_head import DistilledHead


@MODELS.register_module()
class DeiTDistilledClsHead(DistilledHead, DeiTClsHead):
    """Trainable version of mmpretrain's ``DeiTClsHead``.

    As in DeiT (Touvron et al., arXiv:2012.12877, section 4) and SeRKD (Yan et al., arXiv:2503.21269, section V-A), the class
    token learns the labels through ``head.layers.head``, and the distillation token learns the teacher through
    ``head.layers.head_dist``, which is the tap for losses between logits.

    Args:
        distilled_training: See :class:`DistilledHead`. Default: True.
        kwargs: As for ``DeiTClsHead``: ``num_classes``, ``in_channels``, ``hidden_dim``, ``loss``, ...
    """

    def classify(self, feats: tuple) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits ``(B, num_classes)`` of the class token and of the distillation token."""
        class_token, distillation_token = self.pre_logits(feats)
        return self.layers.head(class_token), self.layers.head_dist(distillation_token)
