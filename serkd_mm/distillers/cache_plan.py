"""Which of the teacher's outputs a cache must hold for one or several configs, and how each is stored."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from ..config_errors import ConfigError
from ..teacher_cache.canonical import canonical
from ..teacher_cache.formats import DenseFormat, MeanFormat, RecordFormat, TopKFormat, TriangleFormat
from ..teacher_cache.manifest import serves
from ..tokenizers import Feature
from .distillation_objective import DistillationObjective
from .targets import GridShape, Reading


@dataclass
class TeacherOutput:
    """An output of the teacher that a cache holds.

    Attributes:
        tap: Module path of the tap in the teacher.
        content: What is kept of it, see :class:`~serkd_mm.losses.base_loss.BaseDistillationLoss`.
        tokenizer: Canonical settings of the view's tokenizer; None if a loss reads the tap itself.
        merger: Canonical settings of the view's merger; None if a loss reads the tap itself.
        modules: The teacher's tokenizer and the merger, or none.
        losses: Names of the losses that read it.
    """

    tap: str
    content: str
    tokenizer: dict | None
    merger: dict | None
    modules: tuple[nn.Module, ...]
    losses: list[str] = field(default_factory=list)

    @torch.no_grad()
    def compute(self, features: Mapping[str, Feature]) -> tuple[torch.Tensor, GridShape | None]:
        """Compute what the losses read, and rows and columns of its grid.

        Args:
            features: The teacher's features by module path.
        """
        if not self.modules:
            return features[self.tap].tensor, None
        tokenizer, merger = self.modules
        grid = merger(tokenizer(features[self.tap]))
        return grid.flatten(2).mT, tuple(grid.shape[2:])

    def needs_basis(self, tensor: torch.Tensor) -> bool:
        """Return whether this output is stored by a basis, which is fitted to images.

        Args:
            tensor: The output for some images.
        """
        return self.content == 'tokens' and tensor.ndim == 3

    def format(self, tensor: torch.Tensor, dtype: str, top_k: int | None) -> RecordFormat:
        """Return how this output is stored, unless it needs a basis.

        Args:
            tensor: The output for some images.
            dtype: Number format, 'float16' or 'float32'.
            top_k: Number of logits that are kept; None keeps all.
        """
        if self.content == 'relations':
            return TriangleFormat(*tensor.shape[1:], dtype)
        if self.content == 'mean':
            return MeanFormat(tensor.shape[2 if tensor.ndim == 3 else 1], dtype)
        if self.content == 'class' or (self.content == 'logits' and top_k is not None):
            return TopKFormat(tensor.shape[1], 1 if self.content == 'class' else top_k)
        return DenseFormat(tuple(tensor.shape[1:]), dtype)


def plan_outputs(
    objectives: Iterable[tuple[DistillationObjective, Mapping[str, str]]], full_tokens: bool
) -> list[TeacherOutput]:
    """List the outputs that the losses of one or several objectives read, each once.

    What a loss needs of a source is not stored if the whole source is, for another loss.

    Args:
        objectives: Objectives, and the module path of each of the teacher's taps by name.
        full_tokens: Whether tokens are stored as they are and not by a basis.

    Raises:
        ConfigError: A loss cannot be computed from a cache.
    """
    sources: dict[str, dict[str, TeacherOutput]] = {}
    for objective, paths in objectives:
        for reading in objective.readings():
            output = _output_of(reading, objective, paths[reading.tap], full_tokens)
            key = json.dumps([output.tap, output.tokenizer, output.merger], sort_keys=True)
            known = sources.setdefault(key, {}).setdefault(output.content, output)
            if reading.loss not in known.losses:
                known.losses.append(reading.loss)
    return [output for contents in sources.values() for output in _without_covered(contents)]


def _output_of(reading: Reading, objective: DistillationObjective, path: str, full_tokens: bool) -> TeacherOutput:
    if reading.content is None:
        raise ConfigError(
            f'model.losses.{reading.loss} cannot be computed from a cache (its teacher_content is None). Remove it with '
            f'model.losses.{reading.loss}=None, or train with the teacher'
        )
    modules = ()
    if reading.source in objective.views:
        view = objective.views[reading.source]
        modules = (objective.tokenizers[view.tokenizer_of[reading.tap]].teacher, view.merger)
    content = 'features' if reading.content == 'tokens' and full_tokens else reading.content
    return TeacherOutput(path, content, canonical(reading.tokenizer), canonical(reading.merger), modules)


def _without_covered(contents: dict[str, TeacherOutput]) -> list[TeacherOutput]:
    """The outputs of one source without those that another one contains; it serves their losses too."""
    for part in list(contents):
        whole = next((content for content in contents if content != part and serves(content, part)), None)
        if whole is not None:
            contents[whole].losses += [loss for loss in contents.pop(part).losses if loss not in contents[whole].losses]
    return list(contents.values())
