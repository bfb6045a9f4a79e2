"""The trainings that share a teacher cache, each built once without data, and what they must have in common."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS

from ..config_errors import ConfigError, prefix_errors
from ..config_files import type_name
from ..teacher_cache.canonical import canonical, first_difference
from ..teacher_cache.errors import CacheError
from .cached_training import cached_training_config, check_loads_again
from .distillation_objective import DistillationObjective
from .frozen_teacher import FrozenTeacher
from .input_statistics import InputStatistics
from .relation_distiller import RelationDistiller
from .teacher_fingerprint import teacher_fingerprint


@dataclass
class CacheSource:
    """A training whose teacher's outputs are stored.

    Attributes:
        path: Path of its config.
        config: Its config, with the teacher.
        cached: The config of the same training from the cache.
        objective: Its views and losses.
        taps: Module path of each tap of the teacher by name.
        statistics: Normalization of the student's images.
        teacher: What determines the teacher's outputs, see :func:`teacher_fingerprint`.
        image_shape: Channels, height and width of the student's images, from which the size of the teacher's follows.
    """

    path: str
    config: Config
    cached: Config
    objective: DistillationObjective
    taps: dict[str, str]
    statistics: InputStatistics
    teacher: dict[str, Any]
    image_shape: tuple[int, int, int]


def build_source(
    path: str, name: str, config: Config, folder: str, num_views: int, seed: int, amp: bool = False
) -> CacheSource:
    """Build the model of a training, which checks its taps, views and losses, and keep what a cache needs of it.

    Args:
        path: Path of the config, for messages.
        name: Name of the config, for the work folder of the training.
        config: The config.
        folder: Folder of the cache.
        num_views: Number of views.
        seed: Seed of the views.
        amp: Whether a teacher without an autocast dtype of its own runs in bfloat16. Default: False.

    Raises:
        ConfigError: It distills nothing, a part of the model is wrong, its batches cannot be repeated, or it cannot be
            written to a file.
    """
    config = deepcopy(config)
    if type_name(config.model) == 'RelationDistiller' and config.model.get('teachers') is not None:
        raise ConfigError(
            f'{path}: model.teachers names several teachers, and a cache holds the outputs of one, model.teacher. Train '
            'without a cache, or distill from one teacher'
        )
    if type_name(config.model) != 'RelationDistiller' or not isinstance(config.model.get('teacher'), Mapping):
        raise ConfigError(
            f'{path}: model.type is {type_name(config.model)}, and only a RelationDistiller with a teacher has outputs of a '
            'teacher to store'
        )
    with prefix_errors(path):
        if (
            amp
            and config.model.teacher.get('autocast_dtype') is None
            and config.model.teacher.get('dtype', 'float32') == 'float32'
        ):
            config.model.teacher.autocast_dtype = 'bfloat16'
        # Before hours of work: the sampler, the preprocessor and the batch augmentation are those of views.
        cached_training_config(config, name, folder, num_views, seed, {})
        torch.manual_seed(seed)
        model = _build(config)
        statistics = InputStatistics.from_preprocessor(model.student.data_preprocessor)
        taps = dict(model.teacher.taps.paths)
        cached = cached_training_config(config, name, folder, num_views, seed, taps)
        check_loads_again(cached, path)
        fingerprint = teacher_fingerprint(config.model.teacher, statistics)
    return CacheSource(path, config, cached, model.distill, taps, statistics, fingerprint, model.input_size)


def check_same_source(sources: Sequence[CacheSource]) -> None:
    """Check that several trainings have the same teacher and images.

    Raises:
        CacheError: Two differ; the message names them and the setting.
    """
    first, *others = sources
    for other in others:
        for name, one, two in zip(_COMMON, _common(first), _common(other), strict=True):
            difference = first_difference(one, two, name)
            if difference:
                raise CacheError(
                    f'{first.path} and {other.path} cannot share a cache, because they differ in {name}: {difference}. Make '
                    'a cache of each, with another --out'
                )


def build_teacher(sources: Sequence[CacheSource], seed: int) -> FrozenTeacher:
    """Build the teacher with the taps of all trainings, named by their module paths, and load its weights.

    Args:
        sources: The trainings; they have the same teacher.
        seed: Seed of random weights, for tests.

    Raises:
        ConfigError: The weights cannot be loaded.
    """
    paths = {path: path for source in sources for path in source.taps.values()}
    torch.manual_seed(seed)
    config = {**sources[0].config.model.teacher, 'taps': paths}
    teacher = FrozenTeacher(config, set(paths), sources[0].statistics, sources[0].image_shape)
    teacher.load()
    teacher.shorten()  # Each training has been built, which ran the whole teacher once.
    return teacher


_COMMON = ('model.teacher', 'train_dataloader.dataset', 'train_dataloader.sampler.type')


def _common(source: CacheSource) -> list[Any]:
    """What the trainings of a cache have in common, as ``_COMMON`` names it."""
    loader = source.config.train_dataloader
    return [source.teacher, canonical(source.cached.train_dataloader.dataset), type_name(loader.sampler)]


def _build(config: Config) -> RelationDistiller:
    """Build the model as the runner does."""
    settings = deepcopy(config.model)
    if config.get('data_preprocessor') is not None:
        settings.setdefault('data_preprocessor', deepcopy(config.data_preprocessor))
    return MODELS.build(settings)
