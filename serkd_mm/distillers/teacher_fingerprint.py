"""What determines a teacher's outputs: stored with a cache of them, and compared when a model is built on it."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..fileio.downloads import sha256
from ..model_sources import find_model, find_weights
from ..teacher_cache.canonical import canonical, first_difference
from .input_statistics import InputStatistics
from .teacher_classes import read_classes
from .teacher_config import TEACHER_KEY, find_input_size


def teacher_fingerprint(config: Mapping, student_statistics: InputStatistics) -> dict[str, Any]:
    """Describe a teacher without building it.

    The size that a teacher without ``input_size`` runs at follows from the model and from the size of the student's images,
    which the stored views determine: so ``input_size`` is that of the settings.

    Args:
        config: The settings ``model.teacher``; ``model`` is set.
        student_statistics: Normalization of the student's images, which a teacher without a preprocessor shares.

    Returns:
        The canonical settings ``model``, ``preprocessor``, ``input_size``, ``classes`` (without names), ``dtype`` and
        ``autocast_dtype``; ``checkpoint``, without what is secret in a URL; and ``weights_sha256``, None if the file is not
        on this machine.

    Raises:
        ConfigError: A setting is wrong, or the model does not exist.
    """
    source = find_model(config.get('model'), f'{TEACHER_KEY}.model')
    own = source.config.get('data_preprocessor') or source.data_preprocessor
    weights = find_weights(config.get('checkpoint'), source, exists=False, key=f'{TEACHER_KEY}.checkpoint')
    size = find_input_size(config.get('input_size'))
    classes = read_classes(config.get('classes'), TEACHER_KEY)
    return {
        'model': canonical({name: value for name, value in source.config.items() if name != 'data_preprocessor'}),
        'preprocessor': canonical(asdict(student_statistics) if own is None else own),
        'input_size': canonical(size),
        'classes': None if classes is None else canonical(classes.indices),
        'dtype': config.get('dtype', 'float32'),
        'autocast_dtype': config.get('autocast_dtype'),
        'checkpoint': None if weights is None else weights.shown,
        'weights_sha256': _sha256_once(weights.path) if weights is not None and weights.is_local else None,
    }


def _sha256_once(path: Path) -> str:
    """The SHA-256 of a file: of several configs with one teacher, only the first reads the file."""
    status = path.stat()
    return _sha256_of(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _sha256_of(path: Path, _size: int, _modified: int) -> str:
    return sha256(path)


def teacher_differences(stored: Mapping, present: Mapping) -> list[str]:
    """Describe in words by what the outputs of two teachers differ; dtypes only round, and are not compared.

    Args:
        stored: The fingerprint that was stored.
        present: The fingerprint of this run's teacher. Weights that are not on this machine are compared by name.
    """
    found = [
        first_difference(stored.get(name), present[name], f'{TEACHER_KEY}.{name}')
        for name in ('model', 'preprocessor', 'input_size', 'classes')
    ]
    if present['weights_sha256'] is not None:
        if stored.get('weights_sha256') != present['weights_sha256']:
            then = (stored.get('weights_sha256') or 'random weights')[:14]
            found.append(
                f'{TEACHER_KEY}.checkpoint={present["checkpoint"]!r} holds other weights (SHA-256 '
                f'{present["weights_sha256"][:8]}; of the cache: {then})'
            )
    elif present['checkpoint'] is not None:
        found.append(first_difference(stored.get('checkpoint'), present['checkpoint'], f'{TEACHER_KEY}.checkpoint'))
    return [difference for difference in found if difference is not None]
