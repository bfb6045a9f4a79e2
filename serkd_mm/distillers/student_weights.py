"""Weights that a student starts from."""

import logging

import torch
from mmengine.logging import print_log
from mmpretrain.registry import MODELS
from torch import nn

from ..config_errors import ConfigError
from ..model_sources import ModelSource, find_weights
from .input_statistics import InputStatistics
from .model_parts import head_modules
from .teacher_weights import fetch_on_all_ranks, load_on_all_ranks

_KEY = 'model.student.checkpoint'


class StudentWeights:
    """The weights of the setting ``student.checkpoint``: loaded before training starts, and never for evaluation.

    Args:
        checkpoint: A path or URL, or True for the weights of the model's publisher. None leaves the student as it was
            initialized.
        source: The student's model.

    Raises:
        ConfigError: The setting is wrong, the file does not exist, or the publisher has no weights.
    """

    def __init__(self, checkpoint: str | bool | None, source: ModelSource) -> None:
        self.source = source
        self.file = find_weights(checkpoint, source, exists=True, key=_KEY)

    def load(self, student: nn.Module) -> None:
        """Load the weights; to be called on every rank.

        A class head for another number of classes stays as it was initialized, which is logged.

        Raises:
            ConfigError: The file cannot be fetched or read, or does not match the student apart from the class head.
        """
        if self.file is None:
            return
        if (problem := fetch_on_all_ranks(self.file, _KEY)) is not None:
            raise ConfigError(problem)
        load_on_all_ranks(student, self.file, _KEY, self._convert)
        print_log(f'The student starts from {self.file.shown} ({self.file.path})', logger='current')
        self._compare_statistics(student)

    def _compare_statistics(self, student: nn.Module) -> None:
        """Warn if the student's images are normalized in another way than those that the weights were trained on."""
        published = self.source.data_preprocessor
        if published is None:
            return
        preprocessor = MODELS.build({'type': 'ClsDataPreprocessor', **published})
        theirs, ours = (InputStatistics.from_preprocessor(one) for one in (preprocessor, student.data_preprocessor))
        if theirs != ours:
            print_log(
                f'{_KEY}={self.file.shown!r} was trained on images normalized by {theirs}, those of this training are '
                f'normalized by {ours}. To keep the former, set data_preprocessor',
                logger='current',
                level=logging.WARNING,
            )

    def _convert(self, state_dict: dict[str, torch.Tensor], student: nn.Module, where: str) -> dict[str, torch.Tensor]:
        """The weights in the student's names; its own ones for a class head that the file does not have."""
        own = student.state_dict(keep_vars=True)
        head = {id(weight) for module in head_modules(student) for weight in module.parameters()}
        names = [name for name, weight in own.items() if id(weight) in head]
        kept = [name for name in names if name not in state_dict or state_dict[name].shape != own[name].shape]
        if kept:
            print_log(f'{where} has no such class head: {", ".join(kept)} start from random weights', logger='current')
        others = {name: value for name, value in state_dict.items() if name in own or not name.startswith('head.')}
        return self.source.convert({**others, **{name: own[name].detach().clone() for name in kept}}, student, where)
