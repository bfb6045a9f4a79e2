from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from mmpretrain.structures import DataSample
from torch import nn

from ..config_errors import ConfigError, check_keys, prefix_errors
from ..teacher_cache import TeacherCache, ViewPreprocessor
from ..teacher_cache.canonical import canonical, first_difference
from ..teacher_cache.manifest import Entry, serves
from ..teacher_cache.view_records import set_record
from .input_statistics import InputStatistics
from .taps import canonical_path
from .targets import GridShape, Reading, SourceTap, Targets
from .teacher_classes import read_classes
from .teacher_config import TEACHER_KEY, TEACHER_SETTINGS
from .teacher_fingerprint import teacher_differences, teacher_fingerprint

CACHE_KEY = f'{TEACHER_KEY}.cache'


class CachedTeacher:
    """The teacher's stored outputs in place of the teacher, which is neither built, downloaded nor loaded.

    The records come with the data samples of a :class:`~serkd_mm.teacher_cache.RepeatableViews`. They are decoded here, on
    the device, for the whole batch at once.

    Args:
        config: The settings ``model.teacher``. ``cache`` is the folder that ``tools/cache_teacher.py`` has written. ``taps``
            are those of the cache if they are left out. ``model`` and ``checkpoint`` may be left out; if they are set, they
            must be those of the cache, which is checked without building the teacher.
        readings: What the losses read of the teacher.
        preprocessor: The student's data preprocessor, which must be a :class:`~serkd_mm.teacher_cache.ViewPreprocessor`.

    Attributes:
        folder: The folder of the cache.
        identity: Checksum of its manifest.
        classes: The teacher's classes that are the student's; None for all.

    Raises:
        ConfigError: There is no complete cache in the folder, it was made with another teacher, or it does not hold what a
            loss reads; or the preprocessor is another.
    """

    def __init__(self, config: Mapping, readings: Sequence[Reading], preprocessor: nn.Module) -> None:
        check_keys(config, TEACHER_SETTINGS, TEACHER_KEY)
        self.key = TEACHER_KEY
        self.folder = config['cache']
        if not isinstance(self.folder, str):
            raise ConfigError(f'{CACHE_KEY} must be the path of a folder, but is {self.folder!r}')
        with prefix_errors(f'{CACHE_KEY}={self.folder!r}'):
            self._cache = TeacherCache(self.folder)
            self._cache.formats  # noqa: B018 (reads the files of bases now, so that an error names the key)
        self.classes = read_classes(config.get('classes'), TEACHER_KEY)
        self.identity, self._is_announced = self._cache.manifest.identity, False
        if not isinstance(preprocessor, ViewPreprocessor):
            raise ConfigError(
                f'{CACHE_KEY}: records belong to given pictures, mixed with given mates. Set data_preprocessor.type='
                f"'ViewPreprocessor' and train_dataloader as in the config that tools/cache_teacher.py has written to "
                f'{self.folder}; data_preprocessor.type is {type(preprocessor).__name__}'
            )
        self._check_teacher(config, InputStatistics.from_preprocessor(preprocessor))
        self._entries = {(reading.loss, reading.tap): self._find(reading, config.get('taps')) for reading in readings}
        self._grids: dict[SourceTap, GridShape] = {
            (reading.source, reading.tap): tuple(self._entry(reading).grid)
            for reading in readings
            if self._entry(reading).grid is not None
        }

    def __call__(self, data_samples: Sequence[DataSample], device: torch.device) -> Targets:
        """Decode the records of a batch.

        Args:
            data_samples: The samples of the batch, with their records.
            device: Device of the result.

        Raises:
            ConfigError: The samples have no records, or those of another cache.
        """
        records = self._stack(data_samples).to(device, non_blocking=True)
        decoded: dict[int, torch.Tensor] = {}
        for number in set(self._entries.values()):
            entry = self._cache.manifest.entries[number]
            part = records[:, entry.offset : entry.offset + entry.num_bytes]
            decoded[number] = self._cache.formats[number].decode(part)
        return Targets({key: decoded[number] for key, number in self._entries.items()}, self._grids)

    def add_examples(self, data_samples: Sequence[DataSample]) -> None:
        """Give samples records of random values, for the dry run while the model is built."""
        generator = torch.Generator().manual_seed(0)
        formats = self._cache.formats
        parts = [one.encode(one.example(len(data_samples), generator)) for one in formats]
        for sample, record in zip(data_samples, np.concatenate(parts, axis=1), strict=True):
            set_record(sample, record, self.identity)

    def stored_outputs(self) -> list[tuple[list[str], str, int]]:
        """List losses, format and bytes of an image for each output that is read; for reports."""
        losses: dict[int, list[str]] = {}
        for (loss, _), number in self._entries.items():
            losses.setdefault(number, []).append(loss)
        formats = self._cache.formats
        return [(names, str(formats[number]), formats[number].num_bytes) for number, names in losses.items()]

    def load(self) -> None:
        """Log where the outputs are read from; the cache was opened when the model was built."""
        if not self._is_announced:
            views, images = self._cache.manifest.num_views, self._cache.manifest.num_images
            print_log(f"The teacher's outputs are read from {self.folder}: {images:,} images, views: {views}", 'current')
            self._is_announced = True

    def __deepcopy__(self, memo: dict) -> 'CachedTeacher':
        """Return itself: a copy of the distiller reads the same cache."""
        return self

    def _stack(self, data_samples: Sequence[DataSample]) -> torch.Tensor:
        """The records ``(B, num_bytes)`` of a batch."""
        identities = {sample.get('teacher_cache_id') for sample in data_samples}
        if identities != {self.identity}:
            problem = 'have no records' if identities == {None} else 'have the records of another cache'
            raise ConfigError(
                f'{CACHE_KEY}={self.folder!r}: the images {problem}. Set train_dataloader as in the config that '
                f"tools/cache_teacher.py has written there: dataset=dict(type='RepeatableViews', cache={self.folder!r}, "
                "...), sampler=dict(type='ViewSampler')"
            )
        return torch.from_numpy(np.stack([sample.get('teacher_record') for sample in data_samples]))

    def _check_teacher(self, config: Mapping, student_statistics: InputStatistics) -> None:
        if config.get('model') is None:
            if self.classes is not None:
                stored, present = self._cache.manifest.teacher.get('classes'), canonical(self.classes.indices)
                self._check_differences(first_difference(stored, present, f'{TEACHER_KEY}.classes'))
            return
        try:
            present = teacher_fingerprint(config, student_statistics)
        except ConfigError as error:
            raise ConfigError(
                f'{error} With {CACHE_KEY}, the model is only compared with that of the cache. If it is not on this '
                f'machine, set {TEACHER_KEY}.model=None'
            ) from error
        self._check_differences('; '.join(teacher_differences(self._cache.manifest.teacher, present)))

    def _check_differences(self, found: str | None) -> None:
        if found:
            raise ConfigError(
                f'{CACHE_KEY}={self.folder!r} was made with another teacher: {found}. Make a cache with this '
                'teacher (tools/cache_teacher.py, another --out), or restore the setting'
            )

    def _find(self, reading: Reading, taps: Any) -> int:
        """Number of the entry that a loss reads."""
        manifest = self._cache.manifest
        path = canonical_path((taps or manifest.taps).get(reading.tap))
        if path is None:
            raise ConfigError(
                f'{TEACHER_KEY}.taps has no {reading.tap!r}, which model.losses.{reading.loss} reads, and {CACHE_KEY}='
                f'{self.folder!r} holds no single tap of this name. Set it to one of '
                f'{sorted({entry.tap for entry in manifest.entries})}'
            )
        tokenizer, merger = canonical(reading.tokenizer), canonical(reading.merger)
        found = [
            number
            for number, entry in enumerate(manifest.entries)
            if (entry.tap, entry.tokenizer, entry.merger) == (path, tokenizer, merger)
            and serves(entry.content, reading.content)
        ]
        if found:  # What it needs and no more, if that is stored.
            return min(found, key=lambda number: manifest.entries[number].content != reading.content)
        held = '; '.join(_described(entry.content, entry.tap, entry.tokenizer, entry.merger) for entry in manifest.entries)
        raise ConfigError(
            f'model.losses.{reading.loss} (on {reading.source!r}) reads '
            f'{_described(reading.content, path, tokenizer, merger)}, which {CACHE_KEY}={self.folder!r} does not hold. '
            f'It holds {held}. Make a cache for all configs at once: tools/cache_teacher.py CONFIG CONFIG ... --out DIR'
        )

    def _entry(self, reading: Reading) -> Entry:
        return self._cache.manifest.entries[self._entries[reading.loss, reading.tap]]


def _described(content: str, tap: str, tokenizer: Mapping | None, merger: Mapping | None) -> str:
    by = '' if tokenizer is None else f' by {_shown(tokenizer)} and {_shown(merger)}'
    return f'{content} of {tap!r}{by}'


def _shown(settings: Mapping) -> str:
    """A component as it would be called."""
    arguments = ', '.join(f'{name}={value!r}' for name, value in settings.items() if name != 'type')
    return f'{settings["type"]}({arguments})'
