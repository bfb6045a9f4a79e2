import torch
from mmpretrain.registry import MODELS

from .base_tokenizer import BaseTokenizer
from .feature import Feature


@MODELS.register_module()
class ClassTokenizer(BaseTokenizer):
    """The class token of a vision transformer as a grid of one token: the first one, before the patches.

    Distillation and register tokens come after it.
    """

    def forward(self, feature: Feature) -> torch.Tensor:
        """Select the class token.

        Args:
            feature: Output of a transformer block; its tensor is ``(B, extra + H*W, C)``.

        Returns:
            The token grid ``(B, C, 1, 1)``, a view of the tensor.

        Raises:
            ValueError: The tensor is not 3-D, or the model has no class token, or does not say whether it has one.
        """
        tokens, number = feature.tensor, feature.num_extra_tokens
        if tokens.ndim != 3:
            raise ValueError(
                'ClassTokenizer reads the tokens (B, N, C) of a transformer block, '
                f'but the tap has shape {tuple(tokens.shape)}'
            )
        if not number:
            reason = 'has no class token' if number == 0 else 'does not say how many tokens stand before its patches'
            raise ValueError(
                f'ClassTokenizer: the tapped model {reason}, so its first token may be a patch. Tap a model with a class '
                'token, or remove what reads this view'
            )
        return tokens[:, 0, :, None, None]
