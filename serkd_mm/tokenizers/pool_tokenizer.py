import torch
from mmpretrain.registry import MODELS

from ..ops.cells import average_cells, maximum_cells
from .base_map_tokenizer import BaseMapTokenizer

_MODES = {'avg': average_cells, 'max': maximum_cells}


@MODELS.register_module()
class PoolTokenizer(BaseMapTokenizer):
    """Tokens of a CNN by pooling (paper, Table II: Average Pooling, Max Pooling).

    Args:
        mode: 'avg' or 'max'.
        window: Positions per token, one number or (height, width).

    Raises:
        ValueError: ``mode`` or ``window`` is none of these.
    """

    def __init__(self, mode: str = 'avg', window: int | tuple[int, int] = 1) -> None:
        super().__init__(window)
        if mode not in _MODES:
            raise ValueError(f"mode must be 'avg' or 'max', but got {mode!r}")
        self.mode = mode

    def tokenize(self, feature: torch.Tensor) -> torch.Tensor:
        return _MODES[self.mode](feature, self.window)

    def extra_repr(self) -> str:
        return f'mode={self.mode!r}, {super().extra_repr()}'
