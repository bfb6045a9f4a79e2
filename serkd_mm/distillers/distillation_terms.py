from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..losses.base_loss import BaseDistillationLoss
from .config_errors import ConfigError, build_module, suggest, without_none
from .taps import Feature
from .views import View


class DistillationTerms(nn.Module):
    """The named losses of a distillation, and the views they read; what a checkpoint keeps under ``distill.``.

    Args:
        views: View configs by name; None removes a view that a base config defines.
        losses: Loss configs by name, each with the setting ``on``: the view or the tap that it reads. None removes one.
        tap_names: Names of the student's taps.

    Raises:
        ConfigError: A name, a setting or a component is wrong.
    """

    def __init__(self, views: Mapping | None, losses: Mapping | None, tap_names: set[str]) -> None:
        super().__init__()
        views, losses = without_none(views, 'model.views'), without_none(losses, 'model.losses')
        self.losses = nn.ModuleDict()
        self.on: dict[str, str] = {}
        for name, config in losses.items():
            self.on[name], self.losses[name] = _build_loss(name, config, set(views) | tap_names)
        self.views = nn.ModuleDict({name: View(config, f'model.views.{name}') for name, config in views.items()})
        for name, view in self.views.items():
            if name in tap_names:
                raise ConfigError(f"model.views.{name} has the name of a tap, so 'on' would be ambiguous")
            if view.tap not in tap_names:
                raise ConfigError(f'model.views.{name}.tap={view.tap!r} is no tap. {suggest(view.tap, tap_names)}')
        for name in set(self.views) - set(self.on.values()):
            del self.views[name]  # A view that no loss reads is checked, but not computed.

    @property
    def used_taps(self) -> set[str]:
        """The taps that a loss reads, itself or through a view."""
        return {self.views[on].tap if on in self.views else on for on in self.on.values()}

    def forward(self, student: Mapping[str, Feature], teacher: Mapping[str, Feature]) -> dict[str, torch.Tensor]:
        """The weighted losses by name; each view is computed once, however many losses read it.

        Raises:
            ConfigError: The features do not fit a view or a loss.
        """
        pairs = {}
        for name, view in self.views.items():
            with _told_by(f'model.views.{name}'):
                pairs[name] = view(student[view.tap], teacher[view.tap])
        losses = {}
        for name, loss in self.losses.items():
            on = self.on[name]
            pair = pairs[on] if on in pairs else (student[on].tensor, teacher[on].tensor)
            with _told_by(f'model.losses.{name} ({type(loss).__name__} on {on!r})'):
                losses[name] = loss(*pair)
        return losses


@contextmanager
def _told_by(key: str) -> Iterator[None]:
    """Put a config key before what a component says against its input."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f'{key}: {error}') from error


def _build_loss(name: str, config: Any, readable: set[str]) -> tuple[str, nn.Module]:
    """What a loss reads, and the loss."""
    key = f'model.losses.{name}'
    if not name.startswith('loss_') or name == 'loss_cls':
        raise ConfigError(
            f"{key}: the name must start with 'loss_', so that mmengine adds it up, and not be 'loss_cls', the student's own"
        )
    if not isinstance(config, Mapping):
        raise ConfigError(f'{key} must be a dict, but is {config!r}')
    settings = {setting: value for setting, value in config.items() if setting != 'on'}
    loss = build_module(settings, BaseDistillationLoss, key)
    on = config.get('on')
    if on not in readable:
        raise ConfigError(f'{key}.on={on!r} is no view and no tap. {suggest(on, readable)}')
    return on, loss
