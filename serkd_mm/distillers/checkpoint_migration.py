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
from typing import Any

from .config_errors import ConfigError
from .distillation_objective import DistillationObjective

_REFINER = re.compile(r'views\.(\w+)\.student\.refiner\.(.+)')
_LOSS = re.compile(r'losses\.(\w+)\.((\w+)\..+|\w+)')


def migrate_distill_names(objective: DistillationObjective, state_dict: dict[str, Any], prefix: str) -> None:
    """Rename the entries of a state dict that serkd-mm 0.1 saved, in place.

    Args:
        objective: What the state dict is about to be loaded into.
        state_dict: The state dict.
        prefix: Prefix of the objective's entries.

    Raises:
        ConfigError: The file has learned tokenizers of 0.1, of which two views of a tap had one each.
    """
    losses = _old_names({name: list(by_tap) for name, by_tap in objective.losses.items()})
    views = _old_names({name: view.taps for name, view in objective.views.items()})
    for name in [name for name in state_dict if name.startswith(prefix)]:
        entry = name.removeprefix(prefix)
        if re.match(r'views\.\w+\.(student|teacher)\.tokenizer\.', entry):
            raise ConfigError(
                f'the checkpoint was saved by serkd-mm 0.1 with learned tokenizers, one for each view ({name}). Now the '
                'views of a tap share one, so training cannot continue from this file. Evaluation works. To start a new '
                'training from its student, remove the entries that start with "distill." first'
            )
        renamed = _renamed(entry, losses, views)
        if renamed is not None:
            state_dict[prefix + renamed] = state_dict.pop(name)


def _old_names(taps_of: dict[str, list[str]]) -> dict[str, tuple[str, str]]:
    """Name and tap of each loss or view by the names that 0.1 may have saved it under."""
    old = {f'{name}_{tap}': (name, tap) for name, taps in taps_of.items() for tap in taps if f'{name}_{tap}' not in taps_of}
    return old | {name: (name, taps[0]) for name, taps in taps_of.items() if len(taps) == 1}


def _renamed(entry: str, losses: dict[str, tuple[str, str]], views: dict[str, tuple[str, str]]) -> str | None:
    """The new name of an entry; None if it is not one of 0.1."""
    refiner, loss = _REFINER.fullmatch(entry), _LOSS.fullmatch(entry)
    if refiner and refiner[1] in views:
        view, tap = views[refiner[1]]
        return f'views.{view}.refiners.{tap}.{refiner[2]}'
    if loss and loss[1] in losses and loss[3] != losses[loss[1]][1]:
        name, tap = losses[loss[1]]
        return f'losses.{name}.{tap}.{loss[2]}'
    return None
