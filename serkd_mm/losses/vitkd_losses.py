import math

import torch
from mmpretrain.registry import MODELS
from torch import nn

from ..lazy_layers import build_on_first_input
from ..ops.precision import at_least_float32
from ..ops.sizes import Size, height_and_width
from .feature_loss import MappedFeaturesLoss


@MODELS.register_module()
class ViTKDMimickingLoss(MappedFeaturesLoss):
    r"""Squared error between tokens of early blocks, the mimicking part of ViTKD (Yang et al., arXiv:2209.02432).

    .. math:: L = \frac{1}{B} \sum_{b, l, c} \left( (W s_{bl} + w)_c - t_{blc} \right)^2

    A linear layer maps the student's channels to the teacher's. It is built at the first call, trained with the student, and
    saved under ``distill.``.

    The authors read the patch tokens, without the class token, that leave the first two blocks, and add up both. A loss on a
    view of two taps is their mean, so double its weight: ``loss_weight=6e-5``. Choice: a linear layer also where both widths
    are equal, as in :class:`FeatureL2Loss`; the authors compare such tokens as they are.

    Args:
        loss_weight: The authors' alpha for one block. Default: 3e-5.
    """

    num_dims = 3

    def __init__(self, loss_weight: float = 3e-5) -> None:
        super().__init__(loss_weight)

    def compare(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Compare tokens ``(B, L, C_s)`` with ``(B, L, C_t)``.

        Raises:
            ValueError: B or L differ, or a width differs from that of the first call.
        """
        self.check_shapes(student, teacher)
        return (self.map_student(student, teacher) - at_least_float32(teacher)).square().sum() / len(student)


@MODELS.register_module()
class ViTKDGenerationLoss(MappedFeaturesLoss):
    r"""Squared error of rebuilt tokens of the last block, the generation part of ViTKD (Yang et al., arXiv:2209.02432).

    .. math:: L = \frac{1}{\lambda B} \sum_b \sum_{l \in M_b} \left\| G(m(W s_b + w))_l - t_{bl} \right\|^2

    A linear layer maps the student's tokens to the teacher's channels. Of each image,
    :math:`\lfloor (1 - \lambda) L \rfloor` tokens are kept at random; m replaces the others, :math:`M_b`, by one learned
    mask token, which starts at 0. G is two 3x3 convolutions with a ReLU between them on the grid of the tokens. All layers
    are built at the first call, trained with the student, and saved under ``distill.``.

    The convolutions are costly: for 14x14 tokens of 768 channels 2.1 billion multiplications an image, where the forward
    pass of DeiT-Ti has 1.3.

    The authors read the patch tokens, without the class token, that leave the last block, after the final norm. Choice: a
    linear layer also where both widths are equal; the authors use such tokens as they are. The mask is drawn from torch's
    random numbers on the device of the student, which the runtime of the configs seeds, so resuming is bit-exact.

    Args:
        mask_ratio: The authors' :math:`\lambda`, the share of tokens that are replaced, above 0 and below 1. Default: 0.5.
        grid: Rows and columns of the grid, one number or both. Default: None, a square.
        loss_weight: The authors' beta. Default: 3e-6.

    Raises:
        ValueError: ``mask_ratio`` is not between 0 and 1, ``grid`` is not made of positive integers, or ``loss_weight`` is
            negative, infinite or not a number.
    """

    num_dims = 3

    def __init__(self, mask_ratio: float = 0.5, grid: Size | None = None, loss_weight: float = 3e-6) -> None:
        super().__init__(loss_weight)
        if isinstance(mask_ratio, bool) or not isinstance(mask_ratio, (int, float)) or not 0 < mask_ratio < 1:
            raise ValueError(f'mask_ratio must be a number between 0 and 1, but got {mask_ratio!r}')
        self.mask_ratio = mask_ratio
        self.grid = None if grid is None else height_and_width(grid, 'grid')
        self.register_module('generator', None)

    def compare(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Compare tokens ``(B, L, C_s)`` with ``(B, L, C_t)``.

        Raises:
            ValueError: B or L differ, the tokens do not form the grid, none would be left or replaced, or a width differs
                from that of the first call.
        """
        self.check_shapes(student, teacher)
        grid, masked = self._grid_of(student), self._mask(student)
        mapped = self.map_student(student, teacher)
        generator = build_on_first_input(self, 'generator', mapped, (teacher.shape[2],), _Generator)
        error = at_least_float32(generator(mapped, masked, grid)) - at_least_float32(teacher)
        return error.square().sum(dim=2).masked_fill(~masked, 0).sum() / (self.mask_ratio * len(student))

    def _mask(self, tokens: torch.Tensor) -> torch.Tensor:
        """Draw which tokens of each image are replaced, ``(B, L)``, the same number of each."""
        number = tokens.shape[1]
        kept = int(number * (1 - self.mask_ratio))
        if not 0 < kept < number:
            raise ValueError(
                f'ViTKDGenerationLoss: mask_ratio={self.mask_ratio} leaves {kept} of {number} tokens, and both those that '
                'are left and those that are replaced are needed. Use another mask_ratio or more tokens'
            )
        order = torch.rand(tokens.shape[:2], device=tokens.device).argsort(dim=1)
        return order.argsort(dim=1) >= kept

    def _grid_of(self, tokens: torch.Tensor) -> tuple[int, int]:
        """Rows and columns of the tokens."""
        number = tokens.shape[1]
        rows, columns = self.grid or (math.isqrt(number), math.isqrt(number))
        if rows * columns != number:
            formed = 'a square' if self.grid is None else f'grid={self.grid}'
            raise ValueError(
                f'ViTKDGenerationLoss: {number} tokens do not form {formed}; set grid=(rows, columns), and read patch '
                'tokens alone'
            )
        return rows, columns

    def extra_repr(self) -> str:
        return f'mask_ratio={self.mask_ratio}, {super().extra_repr()}'


class _Generator(nn.Module):
    """A mask token and two convolutions, which rebuild what it replaces.

    Args:
        channels: Channels of the tokens.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(channels))
        self.convs = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, tokens: torch.Tensor, masked: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Rebuild tokens ``(B, L, C)`` from those that are not masked, ``(B, L)``."""
        tokens = torch.where(masked[:, :, None], self.mask_token.to(tokens), tokens)
        return self.convs(tokens.mT.unflatten(2, grid)).flatten(2).mT
