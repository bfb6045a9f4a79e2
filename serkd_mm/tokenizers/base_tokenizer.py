from abc import ABCMeta, abstractmethod

import torch
from torch import nn

from .feature import Feature


class BaseTokenizer(nn.Module, metaclass=ABCMeta):
    """Base class of tokenizers: a tapped feature in, a token grid out."""

    @abstractmethod
    def forward(self, feature: Feature) -> torch.Tensor:
        """Lay out a feature as a token grid.

        Args:
            feature: The tapped feature.

        Returns:
            The token grid ``(B, C, H, W)``.

        Raises:
            ValueError: The feature is not of the kind that this tokenizer reads.
        """

    def for_teacher(self) -> 'BaseTokenizer':
        """Return the tokenizer of the teacher's side: this one, unless it learns. It must not have parameters."""
        return self
