"""What the losses compare the student with, and what they need of the teacher for it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

GridShape = tuple[int, int]
SourceTap = tuple[str, str]


@dataclass(frozen=True)
class Targets:
    """The teacher's side of every loss, computed by the teacher or read from a cache.

    Attributes:
        tensors: Tokens ``(B, L, C_t)``, or the tapped tensor, by loss and tap; without a graph.
        grids: Rows and columns of the teacher's merged grid by view and tap.
    """

    tensors: Mapping[SourceTap, torch.Tensor]
    grids: Mapping[SourceTap, GridShape]

    @classmethod
    def join(cls, parts: Iterable['Targets']) -> 'Targets':
        """Return the targets of several teachers as one.

        Args:
            parts: The targets of each teacher; no loss and no view is in two of them.
        """
        parts = list(parts)
        return cls(
            tensors={key: tensor for part in parts for key, tensor in part.tensors.items()},
            grids={key: shape for part in parts for key, shape in part.grids.items()},
        )


@dataclass(frozen=True)
class Reading:
    """What a loss reads of the teacher at one tap.

    Attributes:
        loss: Name of the loss.
        source: The view or tap that the loss is on.
        tap: Name of the tap.
        content: What the loss needs of the source, see :class:`~serkd_mm.losses.base_loss.BaseDistillationLoss`.
        tokenizer: Settings of the view's tokenizer. Default: None, if the loss reads the tap itself.
        merger: Settings of the view's merger. Default: None, if the loss reads the tap itself.
    """

    loss: str
    source: str
    tap: str
    content: str
    tokenizer: Mapping | None = None
    merger: Mapping | None = None
