"""The student of a distillation: its model, and the taps that its losses read."""

from collections.abc import Collection, Mapping, Sequence
from types import NoneType
from typing import Any

from mmpretrain.models import BaseClassifier

from ..config_errors import ConfigError, check_keys
from ..heads import make_heads_trainable
from ..model_sources import ModelSource, check_preprocessor, drop_empty_pretrained, find_model
from .default_taps import DEFAULT_TAPS, default_taps
from .label_free import label_free_preprocessor
from .taps import Taps

_SETTINGS = ['model', 'checkpoint', 'taps', 'compile', 'channels_last']
_TAPS = 'model.student.taps'


def build_student(
    config: Mapping, data_preprocessor: Mapping | None, input_size: Sequence[int] | None, label_free: bool
) -> tuple[BaseClassifier, ModelSource]:
    """Build the student's model as it is trained and evaluated.

    Args:
        config: ``model.student``.
        data_preprocessor: The config's, used unless the student's ``model`` has one inside.
        input_size: Channels, height and width of the images; None if the config does not set it.
        label_free: Whether it is trained without labels.

    Returns:
        The model and its source.

    Raises:
        ConfigError: A setting is wrong, or the model does not exist or cannot be built.
    """
    check_keys(config, _SETTINGS, 'model.student')
    check_preprocessor(data_preprocessor, 'data_preprocessor')
    source = find_model(config.get('model'), 'model.student.model')
    if input_size is not None:
        source = source.resized(input_size[1:])
    drop_empty_pretrained(source.config, 'model.student.model')
    make_heads_trainable(source.config)
    if label_free:
        data_preprocessor = label_free_preprocessor(source, data_preprocessor)
    return source.build('model.student.model', data_preprocessor), source


def tap_names(taps: Any) -> Collection[str]:
    """Return the names of the student's taps, before they are found if they are left out.

    Args:
        taps: The setting ``taps`` of the student.

    Raises:
        ConfigError: It is not a dict.
    """
    if not isinstance(taps, (Mapping, NoneType)):
        raise ConfigError(f'{_TAPS} must be a dict of module paths, but is {taps!r}')
    return set(DEFAULT_TAPS if taps is None else taps)


def tap_student(
    student: BaseClassifier, taps: Mapping | None, used: set[str], input_size: tuple[int, int, int], label_free: bool
) -> Taps:
    """Return the student's taps, which are found if they are left out.

    Args:
        student: The student's model.
        taps: The setting ``taps``.
        used: Names of the taps that a loss reads.
        input_size: Channels, height and width of the images.
        label_free: Whether it is trained without labels.

    Raises:
        ConfigError: A tap is missing, cannot be found, or does not lead to a module.
    """
    if taps is None:
        # Without labels and logits, blocks after the tap would stay as they are.
        taps = default_taps(student, used, input_size, _TAPS, label_free and 'logits' not in used)
    return Taps(student, taps, used, _TAPS)
