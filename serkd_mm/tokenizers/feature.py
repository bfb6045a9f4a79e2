from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Feature:
    """The output of a tapped module, and what a tokenizer needs to read it.

    Attributes:
        tensor: Output of the tapped module: tokens ``(B, N, C)``, a map ``(B, C, H, W)`` or logits ``(B, K)``.
        image_size: Height and width in pixels of the images that it was computed from; None: square.
        num_extra_tokens: Number of leading class, distillation or register tokens according to the model; None: unknown.
    """

    tensor: torch.Tensor
    image_size: tuple[int, int] | None = None
    num_extra_tokens: int | None = None
