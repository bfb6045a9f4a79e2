from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..mergers.base_merger import BaseMerger
from ..mergers.superpixel_refiner import SuperpixelRefiner
from ..tokenizers import Feature
from ..tokenizers.base_tokenizer import BaseTokenizer
from .config_errors import ConfigError, build_module, check_keys


class TapTokenizer(nn.Module):
    """The tokenizers of a tap on both sides; the teacher's side has no gradient.

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

    def forward(self, student: Feature, teacher: Feature) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the token grids ``(B, C_s, H, W)`` and ``(B, C_t, H', W')`` of a tapped pair."""
        with torch.no_grad():
            teacher_grid = self.teacher(teacher)
        return self.student(student), teacher_grid


class View(nn.Module):
    """How the token grids of one or several taps become the tokens that losses read.

    Args:
        config: ``dict(tap, tokenizer, merger, refiner=None)``, or with ``taps``, a list, for several taps that share these
            settings. Student and teacher share the merger; the refiner, one for each tap, is the student's alone.
        key: Config key of the view, for messages.

    Attributes:
        taps: Names of the taps.
        tokenizer_of: Name of the tokenizer that each tap is read with.

    Raises:
        ConfigError: A setting is unknown or missing, or a component cannot be built.
    """

    def __init__(self, config: Mapping, key: str) -> None:
        super().__init__()
        check_keys(config, ['tap', 'taps', 'tokenizer', 'merger', 'refiner'], key)
        self.tap_setting, self.taps = _taps_of(config, key)
        self.tokenizer_of: dict[str, str] = {}
        self.merger = build_module(config.get('merger'), BaseMerger, f'{key}.merger')
        self.refiners = nn.ModuleDict()
        if config.get('refiner') is not None:
            for tap in self.taps:
                self.refiners[tap] = build_module(config['refiner'], SuperpixelRefiner, f'{key}.refiner')

    def forward(self, tap: str, student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Merge a pair of token grids, and return tokens.

        Args:
            tap: Name of the tap that the grids are from.
            student: Token grid ``(B, C_s, H, W)``.
            teacher: Token grid ``(B, C_t, H', W')`` without a graph.

        Returns:
            Tokens ``(B, L, C_s)`` of the student and, without a graph, ``(B, L, C_t)`` of the teacher.

        Raises:
            ValueError: The merged grids of the two sides differ in shape.
        """
        with torch.no_grad():
            merged_teacher = self.merger(teacher)
        merged_student = self.refine(tap, self.merger(student))
        if merged_student.shape[2:] != merged_teacher.shape[2:] or merged_student.ndim != 4:
            common = tuple(min(sides) for sides in zip(student.shape[2:], teacher.shape[2:], strict=True))
            raise ValueError(
                f"the student's tokens form a grid of {tuple(student.shape[2:])} and the teacher's one of "
                f'{tuple(teacher.shape[2:])}, which the merger reduces to {tuple(merged_student.shape[2:])} and '
                f'{tuple(merged_teacher.shape[2:])}; a merger must return grids (B, C, h, w) of equal h and w. Set '
                f'merger.grid={common} or smaller with SuperpixelMerger, AvgPoolMerger or MaxPoolMerger'
            )
        return merged_student.flatten(2).mT, merged_teacher.flatten(2).mT

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
