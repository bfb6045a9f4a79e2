from abc import ABCMeta, abstractmethod

import torch
from torch import nn


class BaseTokenizer(nn.Module, metaclass=ABCMeta):
    """What every tokenizer does: a tapped feature in, a token grid out."""

    @abstractmethod
    def forward(
        self,
        feature: torch.Tensor,
        image_size: tuple[int, int] | None = None,
        num_extra_tokens: int | None = None,
    ) -> torch.Tensor:
        """The token grid ``(B, C, H, W)`` of a feature.

        Args:
            feature: Output of the tapped module.
            image_size: Height and width in pixels of the images it was computed from.
            num_extra_tokens: Leading tokens that are no patches, as the backbone says; None where it says nothing.

        Raises:
            ValueError: The feature is not of the kind that this tokenizer reads.
        """
