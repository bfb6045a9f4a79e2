import torch
from mmpretrain.registry import MODELS

from .patch_tokenizer import PatchTokenizer


@MODELS.register_module()
class GridTokenizer(PatchTokenizer):
    """Any backbone's feature as a grid: a transformer's tokens as :class:`PatchTokenizer`, a feature map as it is.

    For pairs of different kinds, a CNN and a transformer, in one view.

    Args:
        num_extra_tokens: As for :class:`PatchTokenizer`.
    """

    def forward(
        self,
        feature: torch.Tensor,
        image_size: tuple[int, int] | None = None,
        num_extra_tokens: int | None = None,
    ) -> torch.Tensor:
        """The token grid of tokens or of a map.

        Args:
            feature: Tokens ``(B, extra + H*W, C)``, or a map ``(B, C, H, W)`` or ``(B, H, W, C)``.
            image_size: Height and width of the image in pixels, for its proportions; square by default.
            num_extra_tokens: What the backbone says of its extra tokens.

        Returns:
            The token grid ``(B, C, H, W)``, a view of ``feature``.

        Raises:
            ValueError: ``feature`` is neither, or its tokens make no grid of the image's proportions.
        """
        if feature.ndim != 4:
            return super().forward(feature, image_size, num_extra_tokens)
        return feature.movedim(3, 1) if self._channels_are_last(feature, image_size or (1, 1)) else feature

    @staticmethod
    def _channels_are_last(feature: torch.Tensor, image_size: tuple[int, int]) -> bool:
        """Whether the first two sides have the image's proportions, and the last two have not."""

        def off(height: int, width: int) -> float:
            return abs(height * image_size[1] - width * image_size[0])

        return off(*feature.shape[1:3]) < off(*feature.shape[2:4])
