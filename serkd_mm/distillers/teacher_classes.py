"""Which of a teacher's classes are the student's: the setting ``classes`` of a teacher."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..config_errors import ConfigError
from ..tokenizers import Feature
from .model_parts import num_classes_of


@dataclass(frozen=True)
class TeacherClasses:
    """The teacher's class of each class of the student, in the student's order.

    Attributes:
        indices: Index of the teacher's class by label of the student.
        names: Name of the class by label, None where the file names none.
        key: Config key and value, for messages.
    """

    indices: tuple[int, ...]
    names: tuple[str | None, ...]
    key: str

    def of_teacher(self, model: nn.Module, config: Mapping) -> 'SelectClasses':
        """Return what selects these classes in the teacher's logits.

        Args:
            model: The teacher's model.
            config: Its config, which is asked where the head does not know how many classes it has (ViG's).

        Raises:
            ConfigError: It has fewer classes, no class head, or the number is not known.
        """
        number = num_classes_of(model)
        if number is None:
            number = (config.get('head') or {}).get('num_classes')
        if not number:
            what = 'has no class head' if number == 0 else 'does not say how many classes it has'
            raise ConfigError(f"{self.key}: the teacher's {type(model).__name__} {what}. Leave classes out")
        wrong = next((index for index in self.indices if index >= number), None)
        if wrong is not None:
            label = self.indices.index(wrong)
            raise ConfigError(
                f'{self.key}: the class of label {label} is {wrong}, but the teacher has the classes 0 to {number - 1}'
            )
        return SelectClasses(self, number)

    def check_student(self, model: nn.Module) -> None:
        """Check that there is a class for each of the student's, as far as it says how many it has.

        Args:
            model: The student.

        Raises:
            ConfigError: The numbers differ.
        """
        number = num_classes_of(model)
        if number not in (None, len(self.indices)):
            raise ConfigError(
                f'{self.key}: {len(self.indices)} classes are listed, and the student has {number}. List one class of the '
                'teacher for each of the student, in the order of its labels, or build the student with as many classes '
                "(num_classes of a head or of dict(type='TimmClassifier', model_name=...), num_labels of a HuggingFaceModel)"
            )


class SelectClasses(nn.Module):
    """Select the columns of a teacher's logits that are the student's classes.

    Args:
        classes: The classes.
        num_classes: Number of the teacher's classes.
    """

    def __init__(self, classes: TeacherClasses, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer('indices', torch.tensor(classes.indices), persistent=False)

    def forward(self, features: Mapping[str, Feature]) -> dict[str, Feature]:
        """Select in each feature that is logits of the teacher's K classes, ``(B, K)`` or dense; others stay as they are.

        Args:
            features: The teacher's features by tap.
        """
        return {tap: self._select(feature) for tap, feature in features.items()}

    def _select(self, feature: Feature) -> Feature:
        dim = 2 if feature.tensor.ndim == 3 else 1
        if (feature.tensor.ndim != 2 and not feature.is_dense) or feature.tensor.shape[dim] != self.num_classes:
            return feature
        return replace(feature, tensor=feature.tensor.index_select(dim, self.indices))


def read_classes(setting: Any, owner: str) -> TeacherClasses | None:
    """Read the setting ``classes``; None if it is not set.

    Args:
        setting: Indices of the teacher's classes in the order of the student's labels, or the path of a file with a line
            for each label: ``INDEX`` or ``INDEX NAME``, separated by spaces or a tab. ``#`` starts a comment.
        owner: Config key of the teacher.

    Raises:
        ConfigError: The file cannot be read, an index is not a whole number, or one is listed twice.
    """
    if setting is None:
        return None
    if isinstance(setting, str):
        key = f'{owner}.classes={setting!r}'
        entries = _read_file(setting, key)
    elif isinstance(setting, Sequence):
        key = f'{owner}.classes'
        entries = [(index, None, f'{key}[{label}]') for label, index in enumerate(setting)]
    else:
        raise ConfigError(f'{owner}.classes must be a list of indices or the path of a file, but is {setting!r}')
    if not entries:
        raise ConfigError(f'{key} lists no class. Set it to None to distill all')
    first: dict[int, str] = {}
    for index, _, where in entries:
        if not isinstance(index, int) or isinstance(index, bool) or index < 0:
            raise ConfigError(f'{where}: {index!r} is not the index of a class, a whole number from 0')
        if index in first:
            raise ConfigError(f"{where}: the teacher's class {index} is listed twice, before in {first[index]}")
        first[index] = where
    return TeacherClasses(tuple(index for index, *_ in entries), tuple(name for _, name, _ in entries), key)


def _read_file(path: str, key: str) -> list[tuple[Any, str | None, str]]:
    """Index, name and place of each line; the index is a text if it is no number."""
    try:
        lines = Path(path).read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f'{key} cannot be read: {getattr(error, "strerror", None) or error}') from error
    entries = []
    for number, line in enumerate(lines, 1):
        text = re.sub(r'(^|\s)#.*', '', line).strip()
        if text:
            index, *rest = text.split('\t') if '\t' in text else text.split(maxsplit=1)
            name = rest[0].strip() if rest else ''
            entries.append((int(index) if index.strip().isdecimal() else index, name or None, f'{key}, line {number}'))
    return entries
