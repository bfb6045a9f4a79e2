"""One teacher, ``model.teacher``, or several by name, ``model.teachers``: their names, and who reads which."""

from collections.abc import Collection, Mapping
from typing import Any

from ..config_errors import ConfigError, suggest

SINGLE = 'teacher'


def teacher_settings(teacher: Mapping | None, teachers: Mapping | None) -> dict[str, Any]:
    """Return the settings of each teacher by name: :data:`SINGLE` for ``model.teacher``; none for evaluation.

    Args:
        teacher: ``model.teacher``.
        teachers: ``model.teachers``. An entry that is None removes a teacher of a base config.

    Raises:
        ConfigError: Both are set, or ``teachers`` names none.
    """
    if teachers is None:
        return {} if teacher is None else {SINGLE: teacher}
    if teacher is not None:
        raise ConfigError('model has both teacher and teachers; set one of them to None')
    if not isinstance(teachers, Mapping):
        raise ConfigError(f'model.teachers must be a dict of teachers by name, but is {teachers!r}')
    for name in teachers:
        if not isinstance(name, str) or not name.isidentifier():
            raise ConfigError(f'model.teachers: {name!r} is not a name of letters, digits and underscores. Rename it')
    named = {name: settings for name, settings in teachers.items() if settings is not None}
    if not named:
        raise ConfigError('model.teachers names no teacher; set model.teachers=None for evaluation')
    return named


def teacher_key(name: str, several: bool) -> str:
    """Return the config key of a teacher.

    Args:
        name: Its name.
        several: Whether it is an entry of ``model.teachers``.
    """
    return f'model.teachers.{name}' if several else 'model.teacher'


def choose_teacher(config: Mapping, key: str, names: Collection[str] | None) -> str:
    """Return the name of the teacher that a view, or a loss on a tap, reads.

    Args:
        config: Settings of the view or loss. ``teacher`` may be left out if there is one teacher.
        key: Their config key.
        names: Names in ``model.teachers``; None if there is ``model.teacher`` alone.

    Raises:
        ConfigError: The name is missing or unknown.
    """
    name = config.get('teacher')
    if names is None:
        if name is not None:
            raise ConfigError(
                f'{key}.teacher={name!r} names one of several teachers, and there is model.teacher alone. Leave it out, or '
                f'set model.teachers=dict({name}=dict(...)) instead of model.teacher'
            )
        return SINGLE
    if name is None:
        if len(names) == 1:
            return next(iter(names))
        raise ConfigError(f'{key}.teacher is missing: name the one of model.teachers that is read. {suggest("", names)}')
    if name not in names:
        raise ConfigError(f'{key}.teacher={name!r} is not one of model.teachers. {suggest(name, names)}')
    return name
