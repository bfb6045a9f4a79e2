import re
from collections.abc import Mapping
from typing import Any

import torch

from ..config_errors import ConfigError, check_boolean, check_keys, suggest
from ..model_sources import find_model, find_weights
from ..ops.sizes import height_and_width
from .execution_options import ExecutionOptions
from .teacher_classes import read_classes

TEACHER_KEY = 'model.teacher'
TEACHER_SETTINGS = (
    'model',
    'checkpoint',
    'taps',
    'classes',
    'input_size',
    'allow_random_teacher',
    'dtype',
    'autocast_dtype',
    'compile',
    'channels_last',
    'device',
    'cache',
)
_DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


class TeacherConfig:
    """The settings of a teacher, read and checked.

    Args:
        config: ``model.teacher``, a dict of these settings:

            - **model**: a dict, a config file, a name of mmpretrain's zoo, ``'timm:<name>'`` or ``'hf:<name>'``, see
              :func:`find_model`.
            - **checkpoint**: a path or URL, or True for the weights of the model's publisher. A file must exist when the
              model is built; the weights are read, and downloaded, when training starts.
            - **taps**: module path of each tap by name. Default: None, which finds them, see :func:`default_taps`.
            - **classes**: the teacher's class of each class of the student, in the student's order: a list of indices, or a
              file with a line ``INDEX`` or ``INDEX NAME`` for each, see :func:`read_classes`. These columns of the teacher's
              logits are what losses read; ``TeacherClassesHook`` compares names with the training data. Default: None, all.
            - **input_size**: height and width, one number or both, that images are resized to for the teacher. Default:
              None, which is the student's if the teacher runs at it, see :class:`SizedTeacher`.
            - **allow_random_teacher**: distill from random weights if there are none; for tests. Default: False.
            - **dtype**: 'bfloat16' or 'float16' stores the weights of linear and convolutional layers in half the memory,
              and runs the teacher in autocast of that dtype; norms, embeddings and running statistics stay in float32.
              Default: 'float32'.
            - **autocast_dtype**: 'bfloat16', 'float16' or 'float32' for the teacher alone. Default: None, which is ``dtype``
              if that is a half-precision dtype, and otherwise as the student.
            - **compile**, **channels_last**: see :class:`ExecutionOptions`. Default: False.
            - **device**: where the teacher runs, such as ``'cuda:1'``, if it does not fit beside the student. Its features
              are copied to the student's device. Of several processes on a machine, all use this device. Default: None, the
              device of the student.
            - **cache**: folder of the teacher's stored outputs. It is read by :class:`CachedTeacher`, and the teacher is not
              built. Default: None.
        key: Config key of the teacher, for messages. Default: 'model.teacher'.

    Attributes:
        key: The config key.

    Raises:
        ConfigError: A setting is unknown or wrong, the model does not exist, or there is no checkpoint.
    """

    def __init__(self, config: Mapping, key: str = TEACHER_KEY) -> None:
        check_keys(config, TEACHER_SETTINGS, key)
        self.key = key
        self.source = find_model(config.get('model'), f'{key}.model')
        random = config.get('allow_random_teacher', False)
        self.allow_random_teacher = check_boolean(random, f'{key}.allow_random_teacher')
        required = not self.allow_random_teacher
        self.weights = find_weights(config.get('checkpoint'), self.source, required, f'{key}.checkpoint')
        if required and self.weights is None:
            raise ConfigError(
                f"{key}.checkpoint is missing: set it to a file or URL, or to True for the weights of mmpretrain's zoo, "
                f'timm or Hugging Face. (Tests may set {key}.allow_random_teacher=True and distill from random weights.)'
            )
        self.taps: Mapping[str, str] | None = config.get('taps')
        self.classes = read_classes(config.get('classes'), key)
        self.input_size = find_input_size(config.get('input_size'), key)
        self.dtype = _dtype(config.get('dtype', 'float32'), f'{key}.dtype')
        self.autocast_dtype = _autocast_dtype(config.get('autocast_dtype'), self.dtype, key)
        self.execution = ExecutionOptions.from_config(config, key)
        self.device = _device(config.get('device'), f'{key}.device')


def find_input_size(size: Any, key: str = TEACHER_KEY) -> tuple[int, int] | None:
    """Return the setting ``input_size`` of the teacher ``key`` as height and width.

    Raises:
        ConfigError: It is neither one nor two positive integers.
    """
    try:
        return None if size is None else height_and_width(size, f'{key}.input_size')
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _dtype(name: Any, key: str) -> torch.dtype:
    if not isinstance(name, str) or name not in _DTYPES:
        raise ConfigError(f'{key}={name!r} is not a dtype. {suggest(name, _DTYPES)}')
    return _DTYPES[name]


def _device(name: Any, key: str) -> torch.device | None:
    if name is None:
        return None
    if not isinstance(name, str) or not re.fullmatch(r'cuda:\d+|cpu', name):
        raise ConfigError(f"{key}={name!r} must be a GPU, such as 'cuda:1' for the second one, or 'cpu'")
    return torch.device(name)


def _autocast_dtype(name: Any, stored: torch.dtype, key: str) -> torch.dtype | None:
    """The dtype of the teacher's autocast context; weights stored in half precision are computed with in that dtype."""
    chosen = None if name is None else _dtype(name, f'{key}.autocast_dtype')
    if stored == torch.float32:
        return chosen
    if chosen not in (None, stored):
        raise ConfigError(
            f'{key}.autocast_dtype={name!r} contradicts {key}.dtype: weights that are stored in half '
            'precision are computed with in the same dtype. Leave autocast_dtype out'
        )
    return stored
