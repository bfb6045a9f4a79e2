import math

import torch
from mmpretrain.registry import MODELS

from .base_tokenizer import BaseTokenizer


@MODELS.register_module()
class PatchTokenizer(BaseTokenizer):
    """Patch tokens of a vision transformer as a grid; class and distillation tokens are removed (paper, section V-A).

    Args:
        num_extra_tokens: Leading tokens that are no patches. By default the backbone's own ``num_extra_tokens``, which
            the distiller passes on; for a backbone that names none, as few as leave a grid of the image's proportions.
    """

    def __init__(self, num_extra_tokens: int | None = None) -> None:
        super().__init__()
        if num_extra_tokens is not None and num_extra_tokens < 0:
            raise ValueError(f'num_extra_tokens must not be negative, but got {num_extra_tokens}')
        self.num_extra_tokens = num_extra_tokens

    def forward(
        self,
        feature: torch.Tensor,
        image_size: tuple[int, int] | None = None,
        num_extra_tokens: int | None = None,
    ) -> torch.Tensor:
        """Drop the extra tokens and lay the patches out as the image is.

        Args:
            feature: Tokens that a transformer block gives, ``(B, extra + H*W, C)``.
            image_size: Height and width of the image in pixels, for its proportions; square by default.
            num_extra_tokens: What the backbone says of its extra tokens.

        Returns:
            The token grid ``(B, C, H, W)``, a view of ``feature``.

        Raises:
            ValueError: ``feature`` is not 3-D, or no grid of the image's proportions has that many patches.
        """
        if feature.ndim != 3:
            raise ValueError(
                'PatchTokenizer reads the tokens (B, N, C) of a transformer block, '
                f'but the tap gave shape {tuple(feature.shape)}'
            )
        aspect = 1.0 if image_size is None else image_size[0] / image_size[1]
        num_extra = num_extra_tokens if self.num_extra_tokens is None else self.num_extra_tokens
        candidates = range(feature.shape[1]) if num_extra is None else [num_extra]
        for extra in candidates:
            shape = _grid_shape(feature.shape[1] - extra, aspect)
            if shape is not None:
                return feature[:, extra:].mT.unflatten(2, shape)
        raise ValueError(
            f'{feature.shape[1]} tokens, {num_extra} of them extra, make no grid of the proportions of the image '
            f"{image_size}; set the tokenizer's num_extra_tokens"
        )


def _grid_shape(num_patches: int, aspect: float) -> tuple[int, int] | None:
    """Height and width with ``height * width == num_patches`` and height / width within one patch of ``aspect``."""
    if num_patches < 1:
        return None
    height = math.sqrt(num_patches * aspect)
    for rows in sorted({max(math.floor(height), 1), math.ceil(height)}, key=lambda rows: abs(rows - height)):
        if num_patches % rows == 0:
            return rows, num_patches // rows
    return None
