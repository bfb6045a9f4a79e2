from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from ..config_errors import ConfigError, build_module, check_name, prefix_errors, suggest, without_none
from ..losses.base_loss import BaseDistillationLoss
from ..tokenizers import Feature
from .targets import GridShape, Reading, SourceTap, Targets
from .teacher_names import choose_teacher
from .views import TapTokenizer, View

Features = Mapping[str, Feature]
Pair = tuple[torch.Tensor, torch.Tensor]


class DistillationObjective(nn.Module):
    """The named losses of a distillation, and the views that they read; a checkpoint keeps it under ``distill.``.

    Args:
        views: View configs by name; None removes a view of a base config.
        losses: Loss configs by name, each with the setting ``on``: the view or the tap that it reads. None removes a loss of
            a base config. A loss on a view of several taps is the mean over the taps.
        tap_names: Names of the student's taps.
        teachers: Names in ``model.teachers``. A view, or a loss on a tap, names the one that it reads by the setting
            ``teacher``. Default: None, one teacher.

    Attributes:
        source_of: The view or tap that each loss reads.
        teacher_of: Name of the teacher that each loss reads.
        losses: Loss modules by loss and tap.
        views: The views that a loss reads, by name.
        tokenizers: Tokenizers by name; views of the same tap and with equal settings share one.

    Raises:
        ConfigError: A name, a setting or a component is wrong.
    """

    def __init__(
        self, views: Mapping | None, losses: Mapping | None, tap_names: set[str], teachers: Collection[str] | None = None
    ) -> None:
        super().__init__()
        views, losses = without_none(views, 'model.views'), without_none(losses, 'model.losses')
        self.losses, self.views, self.tokenizers = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.source_of: dict[str, str] = {}
        self.teacher_of: dict[str, str] = {}
        self._teachers = teachers
        built = {}
        for name, config in losses.items():
            built[name], self.source_of[name] = _build_loss(name, config, set(views) | tap_names)
        for name, config in views.items():
            self._add_view(name, config, tap_names)
        for name in set(self.views) - set(self.source_of.values()):
            del self.views[name]  # An unread view is checked, but not computed.
        read = {tokenizer for view in self.views.values() for tokenizer in view.tokenizer_of.values()}
        for name in set(self.tokenizers) - read:
            del self.tokenizers[name]  # Its parameters would have no gradient.
        for name, loss in built.items():
            source = self.source_of[name]
            taps = self.views[source].taps if source in self.views else [source]
            self.losses[name] = nn.ModuleDict({tap: deepcopy(loss) for tap in taps})
            self.teacher_of[name] = self._find_teacher(name, losses[name])
        for name in sorted(set(teachers or ()) - set(self.teacher_of.values())):
            raise ConfigError(
                f'model.teachers.{name}: no loss reads this teacher. Set teacher={name!r} in a view or in a loss on a tap, '
                f'or model.teachers.{name}=None'
            )

    @property
    def used_taps(self) -> dict[str, list[str]]:
        """Names of the taps that a loss reads, directly or through a view, with the names of these losses."""
        return self._readers(self.losses)

    def taps_of(self, teacher: str) -> dict[str, list[str]]:
        """Return the names of the taps that a loss reads of one teacher, with the names of these losses.

        Args:
            teacher: Name of the teacher.
        """
        return self._readers([name for name in self.losses if self.teacher_of[name] == teacher])

    def _readers(self, losses: Iterable[str]) -> dict[str, list[str]]:
        taps: dict[str, list[str]] = {}
        for name in losses:
            for tap in self.losses[name]:
                taps.setdefault(tap, []).append(name)
        return taps

    @property
    def readers_of_labels(self) -> list[str]:
        """Names of the losses that need labels."""
        return [name for name, by_tap in self.losses.items() if any(loss.needs_labels for loss in by_tap.values())]

    def forward(self, student: Features, targets: Targets, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Compute the weighted losses by name.

        Args:
            student: The student's features by tap.
            targets: What the losses compare them with, from :meth:`targets` or from a cache of the teacher's outputs.
            labels: Probabilities of the classes ``(B, K)``, needed if a loss reads labels. Default: None.

        Raises:
            ConfigError: The features do not fit a view or a loss.
        """
        tokens = self.student_tokens(student, targets.grids)
        losses = {}
        for name, by_tap in self.losses.items():
            source = self.source_of[name]
            values = []
            for tap, loss in by_tap.items():
                own = tokens[source, tap] if source in self.views else student[tap].tensor
                where = source if len(by_tap) == 1 else f'{source}, tap {tap}'
                with prefix_errors(f'model.losses.{name} ({type(loss).__name__} on {where!r})'):
                    extra = (labels,) if loss.needs_labels else ()
                    values.append(loss(own, targets.tensors[name, tap], *extra))
            losses[name] = torch.stack(values).mean()
        return losses

    def scheduled(self) -> Iterator[tuple[str, BaseDistillationLoss]]:
        """Yield the losses with a setting that changes over the training, with their names; one for each tap."""
        for name, by_tap in self.losses.items():
            yield from ((name, loss) for loss in by_tap.values() if loss.schedules)

    @torch.no_grad()
    def targets(self, features: Features, teacher: str | None = None) -> Targets:
        """Compute what losses compare the student with, without a graph; every view and tap once.

        Args:
            features: The teacher's features by tap.
            teacher: Name of the teacher, whose losses alone get targets. Default: None, the only teacher.

        Raises:
            ConfigError: The features do not fit a view.
        """
        merged = self._merged(features, 'teacher', lambda name, _tap, grid: self.views[name].teacher_grid(grid), teacher)
        tokens = {key: grid.flatten(2).mT for key, grid in merged.items()}
        return Targets(
            tensors={
                (name, tap): tokens.get((self.source_of[name], tap), features[tap].tensor)
                for name, by_tap in self.losses.items()
                if teacher in (None, self.teacher_of[name])
                for tap in by_tap
            },
            grids={key: tuple(grid.shape[2:]) for key, grid in merged.items()},
        )

    def student_tokens(self, student: Features, grids: Mapping[SourceTap, GridShape]) -> dict[SourceTap, torch.Tensor]:
        """Compute the student's tokens ``(B, L, C_s)`` of every view and tap, each once.

        Args:
            student: The student's features by tap.
            grids: Rows and columns of the teacher's merged grids by view and tap.

        Raises:
            ConfigError: The features do not fit a view, or the grids of the two sides differ.
        """

        def merge(name: str, tap: str, grid: torch.Tensor) -> torch.Tensor:
            return self.views[name].student_grid(tap, grid, grids[name, tap])

        merged = self._merged(student, 'student', merge)
        return {key: grid.flatten(2).mT for key, grid in merged.items()}

    def tokens(self, student: Features, teacher: Features | Mapping[str, Features]) -> dict[str, dict[str, Pair]]:
        """Compute the tokens ``(B, L, C_s)`` and ``(B, L, C_t)`` by view and tap; for pictures and reports.

        Args:
            student: The student's features by tap.
            teacher: The teacher's features by tap; of several teachers by teacher, then tap.

        Raises:
            ConfigError: The features do not fit a view.
        """
        by_teacher = teacher if self._teachers and len(self._teachers) > 1 else {None: teacher}
        targets = Targets.join(self.targets(features, name) for name, features in by_teacher.items())
        of_teacher = {(self.source_of[name], tap): tensor for (name, tap), tensor in targets.tensors.items()}
        tokens: dict[str, dict[str, Pair]] = {name: {} for name in self.views}
        for (view, tap), own in self.student_tokens(student, targets.grids).items():
            tokens[view][tap] = own, of_teacher[view, tap]
        return tokens

    def readings(self) -> list[Reading]:
        """List what each loss reads of the teacher, one entry for each tap."""
        return [
            Reading(name, source, tap, loss.teacher_content, **self._settings_of(source))
            for name, by_tap in self.losses.items()
            for source in [self.source_of[name]]
            for tap, loss in by_tap.items()
        ]

    def _settings_of(self, source: str) -> dict[str, Any]:
        return self.views[source].settings if source in self.views else {}

    def _merged(
        self, features: Features, side: str, merge: Callable, teacher: str | None = None
    ) -> dict[SourceTap, torch.Tensor]:
        """The merged grids of one side by view and tap; views with equal tokenizers tokenize once."""
        grids: dict[str, torch.Tensor] = {}
        merged = {}
        for name, view in self.views.items():
            for tap, tokenizer in view.tokenizer_of.items() if teacher in (None, view.teacher) else ():
                with prefix_errors(f'model.views.{name}' + (f' (tap {tap!r})' if len(view.taps) > 1 else '')):
                    if tokenizer not in grids:
                        grids[tokenizer] = getattr(self.tokenizers[tokenizer], side)(features[tap])
                    merged[name, tap] = merge(name, tap, grids[tokenizer])
        return merged

    def _add_view(self, name: str, config: Any, tap_names: set[str]) -> None:
        """Build a view, and its tokenizers unless another view shares them."""
        key = f'model.views.{name}'
        view = View(config, key)
        view.teacher = choose_teacher(config, key, self._teachers)
        if name in tap_names:
            raise ConfigError(f"{key} has the name of a tap, so 'on' would be ambiguous")
        for tap in view.taps:
            check_name(tap, f'{key}.{view.tap_setting}')
            if tap not in tap_names:
                raise ConfigError(f'{key}.{view.tap_setting}: {tap!r} is not a tap. {suggest(tap, tap_names)}')
            tokenizer = TapTokenizer(tap, config.get('tokenizer'), f'{key}.tokenizer')
            equal = [shared for shared, other in self.tokenizers.items() if other.settings == tokenizer.settings]
            if not equal:
                equal = [f'{tap}-{name}' if tap in self.tokenizers else tap]
                self.tokenizers[equal[0]] = tokenizer
            view.tokenizer_of[tap] = equal[0]
        self.views[name] = view

    def _find_teacher(self, name: str, config: Mapping) -> str:
        """Name of the teacher that a loss reads: that of its view, or of the loss itself if it is on a tap."""
        source, key = self.source_of[name], f'model.losses.{name}'
        if source not in self.views or self._teachers is None:
            return choose_teacher(config, key, self._teachers)
        of_view = self.views[source].teacher
        if config.get('teacher') not in (None, of_view):
            raise ConfigError(
                f'{key}.teacher={config["teacher"]!r}: the loss is on model.views.{source}, which reads {of_view!r}. Leave '
                'it out, or put the loss on another view'
            )
        return of_view

    def check_shared_parts(self) -> None:
        """Check, once all layers are built, that what student and teacher share has no parameters.

        Raises:
            ConfigError: A merger has parameters, or a tokenizer that learns has no other one for the teacher.
        """
        for name, view in self.views.items():
            for module in (view.merger, *(self.tokenizers[tokenizer].teacher for tokenizer in view.tokenizer_of.values())):
                if next(module.parameters(), None) is not None:
                    raise ConfigError(
                        f'model.views.{name}: student and teacher share {type(module).__name__}, so it must not have '
                        'parameters. Learn in a refiner, or return another tokenizer from for_teacher()'
                    )


def _build_loss(name: str, config: Any, readable: set[str]) -> tuple[nn.Module, str]:
    """Build a loss; also return the view or tap that it reads."""
    key = f'model.losses.{name}'
    if not name.startswith('loss_') or name == 'loss_cls':
        raise ConfigError(
            f"{key}: the name must start with 'loss_', so that mmengine adds it up, and not be 'loss_cls', the student's "
            'task loss'
        )
    if not isinstance(config, Mapping):
        raise ConfigError(f'{key} must be a dict, but is {config!r}')
    settings = {setting: value for setting, value in config.items() if setting not in ('on', 'teacher')}
    loss = build_module(settings, BaseDistillationLoss, key)
    source = config.get('on')
    if not isinstance(source, str) or source not in readable:
        raise ConfigError(f'{key}.on={source!r} is neither a view nor a tap. {suggest(source, readable)}')
    check_name(source, f'{key}.on')
    return loss, source
