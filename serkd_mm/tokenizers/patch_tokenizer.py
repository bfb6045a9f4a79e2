import math

import torch
from mmpretrain.registry import MODELS

from .base_tokenizer import BaseTokenizer
from .feature import Feature


@MODELS.register_module()
class PatchTokenizer(BaseTokenizer):
    """Patch tokens of a vision transformer as a grid, without class and distillation tokens (SeRKD, section V-A).

    Args:
        num_extra_tokens: Number of leading tokens that are not patches. Default: None, which takes the backbone's
            ``num_extra_tokens``; if it has none, the smallest number that leaves a grid of the image's aspect ratio.

    Raises:
        ValueError: ``num_extra_tokens`` is negative.
    """

    def __init__(self, num_extra_tokens: int | None = None) -> None:
        super().__init__()
        if num_extra_tokens is not None and num_extra_tokens < 0:
            raise ValueError(f'num_extra_tokens must not be negative, but got {num_extra_tokens}')
        self.num_extra_tokens = num_extra_tokens

    def forward(self, feature: Feature) -> torch.Tensor:
        """Remove the extra tokens and lay out the patches as they lie in the image.

        Args:
            feature: Output of a transformer block; its tensor is ``(B, extra + H*W, C)``.

        Returns:
            The token grid ``(B, C, H, W)``, a view of the tensor.

        Raises:
            ValueError: The tensor is not 3-D, or no grid of the image's aspect ratio has that many patches.
        """
        tokens, image_size = feature.tensor, feature.image_size
        if tokens.ndim != 3:
            raise ValueError(
                'PatchTokenizer reads the tokens (B, N, C) of a transformer block, '
                f'but the tap has shape {tuple(tokens.shape)}'
            )
        aspect = 1.0 if image_size is None else image_size[0] / image_size[1]
        num_extra = feature.num_extra_tokens if self.num_extra_tokens is None else self.num_extra_tokens
        for extra in range(tokens.shape[1]) if num_extra is None else [num_extra]:
            shape = _rows_and_columns(tokens.shape[1] - extra, aspect)
            if shape is not None:
                return tokens[:, extra:].mT.unflatten(2, shape)
        raise ValueError(
            f'{tokens.shape[1]} tokens, {num_extra} of them extra, do not form a grid with the aspect ratio of the image '
            f"{image_size}; set the tokenizer's num_extra_tokens"
        )


def _rows_and_columns(num_patches: int, aspect: float) -> tuple[int, int] | None:
    """Height and width with ``height * width == num_patches`` and height / width within one patch of ``aspect``.

    Patches of a square image form a square: 195 tokens are no 13 x 15 grid, but 14 x 14 less one that is no extra token.
    """
    if num_patches < 1:
        return None
    height = math.sqrt(num_patches * aspect)
    for rows in sorted({max(math.floor(height), 1), math.ceil(height)}, key=lambda rows: abs(rows - height)):
        if num_patches % rows == 0 and (aspect != 1 or rows * rows == num_patches):
            return rows, num_patches // rows
    return None
