from collections.abc import Mapping

import torch
from torch import nn

from ..mergers.base_merger import BaseMerger
from ..mergers.superpixel_refiner import SuperpixelRefiner
from ..tokenizers.base_tokenizer import BaseTokenizer
from .config_errors import ConfigError, build_module, check_keys
from .taps import Feature


class View(nn.Module):
    """Tokens of a tapped pair: the same tokenizer and merger on the student's and on the teacher's side.

    What a tokenizer learns it learns on the student's side; the teacher's has no gradient. A refiner is the student's alone.

    Args:
        config: ``dict(tap, tokenizer, merger, refiner=None)``: a tap that student and teacher both have, and component
            configs.
        key: Config key of the view, for messages.

    Raises:
        ConfigError: A setting is unknown or missing, or a component can not be built.
    """

    def __init__(self, config: Mapping, key: str) -> None:
        super().__init__()
        check_keys(config, ['tap', 'tokenizer', 'merger', 'refiner'], key)
        if not isinstance(config.get('tap'), str):
            raise ConfigError(f'{key}.tap must name a tap of model.student.taps, but is {config.get("tap")!r}')
        self.tap = config['tap']
        self.student = _Side(config, key)
        self.teacher = _Side({**config, 'refiner': None}, key)

    def forward(self, student: Feature, teacher: Feature) -> tuple[torch.Tensor, torch.Tensor]:
        """Merged tokens ``(B, M, C_s)`` of the student and, without a graph, ``(B, M, C_t)`` of the teacher.

        Raises:
            ValueError: The sides have different grids, from which the merger makes different numbers of tokens.
        """
        with torch.no_grad():
            teacher_tokens, teacher_grid = self.teacher(teacher)
        student_tokens, student_grid = self.student(student)
        if student_tokens.shape[1] != teacher_tokens.shape[1]:
            common = tuple(min(sides) for sides in zip(student_grid, teacher_grid, strict=True))
            raise ValueError(
                f"the student's tokens lie on a grid of {student_grid} and the teacher's on one of {teacher_grid}, and the "
                f'merger makes {student_tokens.shape[1]} and {teacher_tokens.shape[1]} of them. Set merger.grid={common}, '
                'or a smaller one, with SuperpixelMerger, AvgPoolMerger or MaxPoolMerger to give both equally many'
            )
        return student_tokens, teacher_tokens


class _Side(nn.Module):
    """Tokenizer, merger and refiner of one side of a view."""

    def __init__(self, config: Mapping, key: str) -> None:
        super().__init__()
        self.tokenizer = build_module(config.get('tokenizer'), BaseTokenizer, f'{key}.tokenizer')
        self.merger = build_module(config.get('merger'), BaseMerger, f'{key}.merger')
        refiner = config.get('refiner')
        self.refiner = None if refiner is None else build_module(refiner, SuperpixelRefiner, f'{key}.refiner')

    def forward(self, feature: Feature) -> tuple[torch.Tensor, tuple[int, int]]:
        """Merged tokens, and the rows and columns of the token grid that they were made of."""
        grid = self._grid(feature)
        shape = tuple(grid.shape[-2:])
        return self._refine(self.merger(grid), shape), shape

    def associate(self, feature: Feature) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int], tuple[int, int]]:
        """Merged tokens ``(B, M, C)``, the association ``(B, N, M)`` to them, and the grids that the N and the M lie on."""
        grid = self._grid(feature)
        shape = tuple(grid.shape[-2:])
        tokens, association = self.merger.associate(grid)
        return self._refine(tokens, shape), association, shape, self.merger.grid_shape(*shape)

    def _grid(self, feature: Feature) -> torch.Tensor:
        return self.tokenizer(feature.tensor, feature.image_size, feature.num_extra_tokens)

    def _refine(self, tokens: torch.Tensor, token_grid: tuple[int, int]) -> torch.Tensor:
        return tokens if self.refiner is None else self.refiner(tokens, self.merger.grid_shape(*token_grid))
