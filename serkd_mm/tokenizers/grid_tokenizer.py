import torch
from mmpretrain.registry import MODELS

from .feature import Feature
from .patch_tokenizer import PatchTokenizer


@MODELS.register_module()
class GridTokenizer(PatchTokenizer):
    """Any backbone's feature as a grid: a transformer's tokens as :class:`PatchTokenizer`, a feature map as it is.

    Use it when one side of a view is a CNN and the other a transformer.

    Args:
        num_extra_tokens: As for :class:`PatchTokenizer`. Default: None.
    """

    def forward(self, feature: Feature) -> torch.Tensor:
        """Lay out tokens or a map as a grid.

        Args:
            feature: Its tensor is tokens ``(B, extra + H*W, C)``, or a map ``(B, C, H, W)`` or ``(B, H, W, C)``.

        Returns:
            The token grid ``(B, C, H, W)``, a view of the tensor.

        Raises:
            ValueError: The tensor is neither, or its tokens form no grid with the aspect ratio of the image.
        """
        if feature.tensor.ndim != 4:
            return super().forward(feature)
        return feature.tensor.movedim(3, 1) if feature.has_channels_last else feature.tensor
