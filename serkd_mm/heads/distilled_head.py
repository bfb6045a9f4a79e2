from abc import abstractmethod

import torch
from mmpretrain.models import ClsHead
from mmpretrain.structures import DataSample


class DistilledHead(ClsHead):
    """What mmpretrain's distilled heads share: one classifier that learns the labels, another that learns the teacher.

    What the second learns is decided by the losses whose tap is on it. Predictions average the logits of both. A subclass
    stands before one of mmpretrain's heads, whose parameters it keeps, so a checkpoint serves either.

    Args:
        distilled_training: False trains both classifiers on the labels through their mean, which is how the same student
            is trained without a teacher (timm's setting of that name does the same).
        kwargs: As mmpretrain's head.
    """

    def __init__(self, *args, distilled_training: bool = True, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.distilled_training = distilled_training

    @abstractmethod
    def classify(self, feats: tuple) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits ``(B, num_classes)`` of the classifier for labels and of that for the teacher, None where there is none."""

    def forward(self, feats: tuple) -> torch.Tensor:
        """Logits of the prediction ``(B, num_classes)``: the mean of both classifiers."""
        return self._mean(*self.classify(feats))

    def loss(self, feats: tuple, data_samples: list[DataSample], **kwargs) -> dict[str, torch.Tensor]:
        """The student's own task loss ``dict(loss=...)``, soft targets of Mixup and CutMix included."""
        class_logits, distillation_logits = self.classify(feats)
        logits = class_logits if self.distilled_training else self._mean(class_logits, distillation_logits)
        return self._get_loss(logits, data_samples, **kwargs)

    @staticmethod
    def _mean(class_logits: torch.Tensor, distillation_logits: torch.Tensor | None) -> torch.Tensor:
        return class_logits if distillation_logits is None else (class_logits + distillation_logits) / 2
