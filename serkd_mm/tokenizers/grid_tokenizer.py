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
        tensor, image_size = feature.tensor, feature.image_size or (1, 1)
        if tensor.ndim != 4:
            return super().forward(feature)
        sides = tensor.shape[1:3], tensor.shape[2:4]  # One of them has the aspect ratio of the image.
        first, last = (abs(height * image_size[1] - width * image_size[0]) for height, width in sides)
        return tensor.movedim(3, 1) if first < last else tensor
