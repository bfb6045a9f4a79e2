"""The teachers of a distillation, built for its losses and its student."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..config_errors import ConfigError
from ..seeding import derive_seed, seeded
from .cached_teacher import CachedTeacher
from .distillation_objective import DistillationObjective
from .frozen_teacher import FrozenTeacher
from .input_statistics import InputStatistics
from .teacher_names import teacher_key


def build_teachers(
    settings: Mapping[str, Any],
    several: bool,
    objective: DistillationObjective,
    student: nn.Module,
    input_size: tuple[int, int, int],
) -> dict[str, FrozenTeacher | CachedTeacher]:
    """Build each teacher, or open the cache of its outputs.

    Args:
        settings: Settings of the teachers by name.
        several: Whether they are those of ``model.teachers``.
        objective: The losses, which read the teachers.
        student: The student.
        input_size: Channels, height and width of the student's images.

    Returns:
        The teachers by name.

    Raises:
        ConfigError: A setting is wrong, or a teacher does not fit the student.
    """
    statistics = InputStatistics.from_preprocessor(student.data_preprocessor)
    teachers: dict[str, FrozenTeacher | CachedTeacher] = {}
    for name, config in settings.items():
        key = teacher_key(name, several)
        if isinstance(config, Mapping) and config.get('cache') is not None:
            if several:
                raise ConfigError(
                    f'{key}.cache: a cache holds the outputs of one teacher, model.teacher. Run this teacher '
                    f'({key}.cache=None), or distill from one'
                )
            teachers[name] = CachedTeacher(config, objective.readings(), student.data_preprocessor)
        else:
            # Neither the student's initial weights nor those of a random teacher depend on what other teachers are built.
            with seeded(derive_seed(torch.initial_seed(), 1)):
                teachers[name] = FrozenTeacher(config, objective.taps_of(name), statistics, input_size, key)
        if teachers[name].classes is not None:
            teachers[name].classes.check_student(student)
    return teachers
