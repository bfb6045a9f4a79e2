from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..config_errors import ConfigError, build_module, check_keys
from ..mergers.base_merger import BaseMerger
from ..mergers.superpixel_refiner import SuperpixelRefiner
from ..tokenizers.base_tokenizer import BaseTokenizer
from .teacher_names import SINGLE


class TapTokenizer(nn.Module):
    """The tokenizers of a tap on both sides; the objective runs the teacher's without a graph.

    Args:
        tap: Name of the tap.
        config: Tokenizer config.
        key: Config key of the tokenizer, for messages.

    Raises:
        ConfigError: The tokenizer cannot be built.
    """

    def __init__(self, tap: str, config: Any, key: str) -> None:
        super().__init__()
        self.settings = (tap, config)
        self.student = build_module(config, BaseTokenizer, key)
        self.teacher = self.student.for_teacher()


class View(nn.Module):
    """How the token grids of one or several taps become the tokens that losses read.

    Args:
        config: ``dict(tap, tokenizer, merger, refiner=None, teacher=None)``, or with ``taps``, a list, for several taps that
            share these settings. ``teacher`` names one of several teachers. Student and teacher share the merger; the
            refiner, one for each tap, is the student's alone.
        key: Config key of the view, for messages.

    Attributes:
        taps: Names of the taps.
        settings: Settings of tokenizer and merger, which determine what the teacher's side computes.
        tokenizer_of: Name of the tokenizer that each tap is read with.
        teacher: Name of the teacher that is read.

    Raises:
        ConfigError: A setting is unknown or missing, or a component cannot be built.
    """

    def __init__(self, config: Mapping, key: str) -> None:
        super().__init__()
        check_keys(config, ['tap', 'taps', 'tokenizer', 'merger', 'refiner', 'teacher'], key)
        self.tap_setting, self.taps = _taps_of(config, key)
        self.settings = {'tokenizer': config.get('tokenizer'), 'merger': config.get('merger')}
        self.tokenizer_of: dict[str, str] = {}
        self.teacher = SINGLE
        self.merger = build_module(config.get('merger'), BaseMerger, f'{key}.merger')
        self.refiners = nn.ModuleDict()
        if config.get('refiner') is not None:
            for tap in self.taps:
                self.refiners[tap] = build_module(config['refiner'], SuperpixelRefiner, f'{key}.refiner')

    def teacher_grid(self, grid: torch.Tensor) -> torch.Tensor:
        """Merge the teacher's token grid ``(B, C_t, H, W)``, without a graph.

        Returns:
            The merged grid ``(B, C_t, h, w)``.

        Raises:
            ValueError: The merger does not return a grid.
        """
        with torch.no_grad():
            return self._merge(grid)

    def student_grid(self, tap: str, grid: torch.Tensor, teacher_shape: tuple[int, int]) -> torch.Tensor:
        """Merge and refine the student's token grid.

        Args:
            tap: Name of the tap that the grid is from.
            grid: Token grid ``(B, C_s, H, W)``.
            teacher_shape: Rows and columns of the teacher's merged grid.

        Returns:
            The merged grid ``(B, C_s, h, w)``.

        Raises:
            ValueError: The merged grids of the two sides differ in shape.
        """
        merged = self.refine(tap, self._merge(grid))
        shape = tuple(merged.shape[2:])
        if shape != tuple(teacher_shape):
            common = tuple(map(min, shape, teacher_shape))
            raise ValueError(
                f"the student's {grid.shape[2]}x{grid.shape[3]} tokens and the teacher's are reduced to grids of different "
                f'shape, {shape} and {tuple(teacher_shape)}. Set merger.grid={common} or smaller with SuperpixelMerger, '
                'AvgPoolMerger or MaxPoolMerger'
            )
        return merged

    def _merge(self, grid: torch.Tensor) -> torch.Tensor:
        merged = self.merger(grid)
        if merged.ndim != 4:
            raise ValueError(
                f'a merger must return grids (B, C, h, w), but {type(self.merger).__name__} returns {tuple(merged.shape)}'
            )
        return merged

    def refine(self, tap: str, merged: torch.Tensor) -> torch.Tensor:
        """Refine the student's merged grid ``(B, C_s, h, w)``, if the view has a refiner."""
        return self.refiners[tap](merged) if tap in self.refiners else merged


def _taps_of(config: Mapping, key: str) -> tuple[str, list[str]]:
    """The setting that names the taps, and their names."""
    if config.get('tap') is not None and config.get('taps') is not None:
        raise ConfigError(f'{key} has both tap and taps; set one of them to None')
    setting, expected = ('tap', 'name a tap') if config.get('taps') is None else ('taps', 'be a list of different taps')
    taps = [config.get('tap')] if setting == 'tap' else config['taps']
    if (
        not isinstance(taps, (list, tuple))
        or not taps
        or not all(isinstance(tap, str) and taps.count(tap) == 1 for tap in taps)
    ):
        raise ConfigError(f'{key}.{setting} must {expected} of model.student.taps, but is {config.get(setting)!r}')
    return setting, list(taps)
