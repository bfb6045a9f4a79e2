from abc import abstractmethod

import torch
from mmpretrain.models import ClsHead
from mmpretrain.structures import DataSample


class DistilledHead(ClsHead):
    """Base class of heads with two classifiers: one learns the labels, the other learns the teacher.

    The losses whose tap is the second classifier train it. The prediction is the mean of both classifiers' logits. A
    subclass also inherits from the mmpretrain head that it makes trainable and keeps that head's parameter names, so
    checkpoints of either load into the other.

    Args:
        distilled_training: If False, the labels train both classifiers through their mean: the same student without a
            teacher, as timm's setting of that name does. Default: True.
        kwargs: As for mmpretrain's head.

    Raises:
        ValueError: ``distilled_training`` is not a bool.
    """

    def __init__(self, *args, distilled_training: bool = True, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(distilled_training, bool):
            raise ValueError(f'distilled_training must be True or False, but got {distilled_training!r}')
        self.distilled_training = distilled_training

    @abstractmethod
    def classify(self, feats: tuple) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute the logits of both classifiers.

        Args:
            feats: Output of the backbone.

        Returns:
            Logits ``(B, num_classes)`` for the labels and for the teacher; None instead of the latter if the head has a
            single classifier.
        """

    def forward(self, feats: tuple) -> torch.Tensor:
        """Return the logits of the prediction ``(B, num_classes)``: the mean of both classifiers."""
        return self._mean(*self.classify(feats))

    def loss(self, feats: tuple, data_samples: list[DataSample], **kwargs) -> dict[str, torch.Tensor]:
        """Compute the student's task loss, also with the soft targets of Mixup and CutMix.

        Args:
            feats: Output of the backbone.
            data_samples: Labels of the images.
            kwargs: As for the loss module of the head.

        Returns:
            The loss, ``dict(loss=...)``.
        """
        class_logits, distillation_logits = self.classify(feats)
        logits = class_logits if self.distilled_training else self._mean(class_logits, distillation_logits)
        return self._get_loss(logits, data_samples, **kwargs)

    @staticmethod
    def _mean(class_logits: torch.Tensor, distillation_logits: torch.Tensor | None) -> torch.Tensor:
        return class_logits if distillation_logits is None else (class_logits + distillation_logits) / 2
