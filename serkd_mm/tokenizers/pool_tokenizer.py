import torch
from mmpretrain.registry import MODELS

from ..ops.cells import average_cells, maximum_cells
from ..ops.sizes import Size
from .base_map_tokenizer import BaseMapTokenizer

_MODES = {'avg': average_cells, 'max': maximum_cells}


@MODELS.register_module()
class PoolTokenizer(BaseMapTokenizer):
    """Tokens of a CNN by average or max pooling (SeRKD, arXiv:2503.21269, Table II).

    Args:
        mode: 'avg' or 'max'. Default: 'avg'.
        window: Positions per token, one number or (height, width). Default: 1.
        grid: Rows and columns of tokens, instead of ``window``. If it does not divide a map, windows overlap as in adaptive
            pooling. Default: None.

    Raises:
        ValueError: ``mode`` is another, or ``window`` or ``grid`` is not made of positive integers.
    """

    def __init__(self, mode: str = 'avg', window: Size = 1, grid: Size | None = None) -> None:
        super().__init__(window, grid)
        if mode not in _MODES:
            raise ValueError(f"mode must be 'avg' or 'max', but got {mode!r}")
        self.mode = mode

    def tokenize(self, feature: torch.Tensor) -> torch.Tensor:
        return _MODES[self.mode](feature, self.window)

    def extra_repr(self) -> str:
        return f'mode={self.mode!r}, {super().extra_repr()}'
