"""Settings of a loss that change over the training: ``loss_weight=dict(type='Linear', begin=1.0, end=0.0)``."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[str, Any], float]


class Schedule(ABC):
    """Base class of schedules: a value for each moment of the training.

    Args:
        begin: Value at the first iteration.
        end: Value from ``until`` on.
        until: The part of the training, above 0 and up to 1, after which the value is ``end``.
    """

    def __init__(self, begin: float, end: float, until: float = 1.0) -> None:
        self.begin, self.end, self.until = begin, end, until

    def at(self, progress: float) -> float:
        """Return the value after a part of the training.

        Args:
            progress: Finished iterations over all iterations, from 0 to 1.
        """
        share = self.share(min(progress / self.until, 1.0))
        return (1 - share) * self.begin + share * self.end

    @abstractmethod
    def share(self, progress: float) -> float:
        """Return how far the value has moved, from 0 (``begin``) to 1 (``end``), after a part of the schedule."""

    def __repr__(self) -> str:
        until = f', until {self.until:g}' if self.until < 1 else ''
        return f'{type(self).__name__}({self.begin:g} to {self.end:g}{until})'


class Linear(Schedule):
    """A straight line from ``begin`` to ``end``."""

    def share(self, progress: float) -> float:
        return progress


class Cosine(Schedule):
    """Half a period of a cosine from ``begin`` to ``end``, slow at both."""

    def share(self, progress: float) -> float:
        return (1 - math.cos(math.pi * progress)) / 2


class Step(Schedule):
    """``begin``, and from ``until`` on ``end``; by default, ``until`` is half of the training."""

    def __init__(self, begin: float, end: float, until: float = 0.5) -> None:
        super().__init__(begin, end, until)

    def share(self, progress: float) -> float:
        return float(progress >= 1)


SCHEDULES = {kind.__name__: kind for kind in (Linear, Cosine, Step)}
"""The kinds of schedules by the name in a config."""


def build_schedule(name: str, config: Mapping, check: Check) -> Schedule:
    """Build the schedule of a setting.

    Args:
        name: The setting, for messages.
        config: ``dict(type, begin, end, until)``.
        check: Checks a value of the setting, and returns it.

    Raises:
        ValueError: The type is unknown, a setting is unknown or missing, or a value is wrong.
    """
    settings = {key: value for key, value in config.items() if key not in ('type', '_scope_')}
    kind = SCHEDULES.get(config.get('type'))
    if kind is None:
        raise ValueError(f'{name}.type={config.get("type")!r} is not a schedule; use one of {", ".join(SCHEDULES)}')
    if not {'begin', 'end'} <= set(settings) <= {'begin', 'end', 'until'}:
        raise ValueError(
            f"{name} must be dict(type={config['type']!r}, begin=..., end=...), and may have 'until'; got {config!r}"
        )
    for key in ('begin', 'end'):
        check(f'{name}.{key}', settings[key])
    until = settings.get('until', 1)
    if not isinstance(until, (int, float)) or isinstance(until, bool) or not 0 < until <= 1:
        raise ValueError(f'{name}.until must be a part of the training, above 0 and up to 1, but got {until!r}')
    return kind(**settings)


class ScheduledSettings:
    """Mixin of modules with settings that may be schedules; each is an attribute with its present value.

    Attributes:
        schedules: The schedules by name of the setting.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.schedules: dict[str, Schedule] = {}

    def set_scheduled(self, name: str, value: float | Mapping, check: Check) -> None:
        """Set a setting to a number, or to a schedule and its first value.

        Raises:
            ValueError: The number or the schedule is wrong.
        """
        if isinstance(value, Mapping):
            self.schedules[name] = build_schedule(name, value, check)
            value = self.schedules[name].begin
        setattr(self, name, check(name, value))

    def set_progress(self, progress: float) -> None:
        """Set all scheduled settings to their value after a part of the training.

        Args:
            progress: Finished iterations over all iterations, from 0 to 1.
        """
        for name, schedule in self.schedules.items():
            setattr(self, name, schedule.at(progress))
