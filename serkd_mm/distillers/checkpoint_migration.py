"""Checkpoints of serkd-mm 0.1: what their names below ``distill.`` are called now.

=========================================== ================================================
0.1                                         now
=========================================== ================================================
``losses.LOSS.*``                           ``losses.LOSS.TAP.*``
``losses.LOSS_TAP.*`` (a loss per stage)    ``losses.LOSS.TAP.*``
``views.VIEW.student.refiner.*``            ``views.VIEW.refiners.TAP.*``
``views.VIEW_TAP.student.refiner.*``        ``views.VIEW.refiners.TAP.*``
``views.VIEW.student.tokenizer.*``          refused: there was one for each view, now one for each tap
=========================================== ================================================
"""

import re
from collections.abc import Container
from typing import Any

from ..config_errors import ConfigError
from .distillation_objective import DistillationObjective


def migrate_distill_names(objective: DistillationObjective, state_dict: dict[str, Any], prefix: str) -> None:
    """Rename the entries of a state dict that serkd-mm 0.1 saved, in place.

    Args:
        objective: What the state dict is about to be loaded into.
        state_dict: The state dict.
        prefix: Prefix of the objective's entries.

    Raises:
        ConfigError: File and objective have learned tokenizers; those of 0.1 were one for each view.
    """
    moved = _moved_prefixes(objective)
    for name in [name for name in state_dict if name.startswith(prefix)]:
        entry = name.removeprefix(prefix)
        if re.match(r'views\.[^.]+\.(student|teacher)\.tokenizer\.', entry):
            if next(objective.tokenizers.parameters(), None) is None:
                del state_dict[name]  # No tokenizer learns.
                continue
            raise ConfigError(
                f'the checkpoint was saved by serkd-mm 0.1 with learned tokenizers, one for each view ({name}). Now the '
                'views of a tap share one, so training cannot continue from this file. Evaluation works. To start a new '
                'training from its student, remove the entries that start with "distill." first'
            )
        for old, new in moved.items():
            if entry.startswith(old) and not entry.startswith(new):
                state_dict[prefix + new + entry.removeprefix(old)] = state_dict.pop(name)


def _moved_prefixes(objective: DistillationObjective) -> dict[str, str]:
    """The present prefix of each loss and refiner by the prefixes that 0.1 may have saved it under."""
    moved = {}
    for name, by_tap in objective.losses.items():
        for tap in by_tap:
            for old in _old_names(name, tap, list(by_tap), objective.losses):
                moved[f'losses.{old}.'] = f'losses.{name}.{tap}.'
    for name, view in objective.views.items():
        for tap in view.refiners:
            for old in _old_names(name, tap, view.taps, objective.views):
                moved[f'views.{old}.student.refiner.'] = f'views.{name}.refiners.{tap}.'
    return moved


def _old_names(name: str, tap: str, taps: list[str], others: Container[str]) -> list[str]:
    """Names that 0.1 may have given to one tap of a loss or view: one of a stage's own, or the present one."""
    by_stage = [] if f'{name}_{tap}' in others else [f'{name}_{tap}']
    return [*by_stage, name] if len(taps) == 1 else by_stage
