import torch
from mmpretrain.models import DeiTClsHead
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample


@MODELS.register_module()
class DeiTDistilledClsHead(DeiTClsHead):
    """mmpretrain's ``DeiTClsHead``, made trainable (DeiT [24], section 4; SeRKD, section V-A).

    The class-token head learns the labels. The distillation-token head learns the teacher: what it learns is decided by the
    losses whose tap is ``head.layers.head_dist``. Predictions average both heads' logits. Parameters are named as in
    ``DeiTClsHead``, so a checkpoint serves either.

    Args:
        distilled_training: False trains both heads on the labels through their mean, which is how the same student is
            trained without a teacher (timm's setting of that name does the same).
        kwargs: As ``DeiTClsHead``: ``num_classes``, ``in_channels``, ``hidden_dim``, ``loss``, ...
    """

    def __init__(self, *args, distilled_training: bool = True, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.distilled_training = distilled_training

    def forward(self, feats: tuple) -> torch.Tensor:
        """Logits of the prediction ``(B, num_classes)``: the mean of both heads."""
        class_logits, distillation_logits = self._both_logits(feats)
        return (class_logits + distillation_logits) / 2

    def loss(self, feats: tuple, data_samples: list[DataSample], **kwargs) -> dict[str, torch.Tensor]:
        """The student's own task loss ``dict(loss=...)``, soft targets of Mixup and CutMix included."""
        class_logits, distillation_logits = self._both_logits(feats)
        logits = class_logits if self.distilled_training else (class_logits + distillation_logits) / 2
        return self._get_loss(logits, data_samples, **kwargs)

    def _both_logits(self, feats: tuple) -> tuple[torch.Tensor, torch.Tensor]:
        class_token, distillation_token = self.pre_logits(feats)
        return self.layers.head(class_token), self.layers.head_dist(distillation_token)
