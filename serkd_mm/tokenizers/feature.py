from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Feature:
    """The output of a tapped module, and what a tokenizer needs to read it.

    Attributes:
        tensor: Output of the tapped module: tokens ``(B, N, C)``, a map ``(B, C, H, W)`` or logits ``(B, K)``.
        image_size: Height and width in pixels of the images that it was computed from; None: square.
        num_extra_tokens: Number of leading class, distillation or register tokens according to the model; None: unknown.
        is_dense: Whether modules of the model, such as its classifier, were applied at every position.
    """

    tensor: torch.Tensor
    image_size: tuple[int, int] | None = None
    num_extra_tokens: int | None = None
    is_dense: bool = False

    @property
    def has_channels_last(self) -> bool:
        """Whether a 4-D tensor is ``(B, H, W, C)``: one of the two layouts has the aspect ratio of the image."""
        image_height, image_width = self.image_size or (1, 1)
        sides = self.tensor.shape[1:3], self.tensor.shape[2:4]
        first, last = (abs(height * image_width - width * image_height) for height, width in sides)
        return first < last
