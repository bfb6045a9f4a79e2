"""What a teacher cache holds and what it was made from: ``manifest.json`` in its folder."""

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..fileio.atomic_backend import write_atomically
from .canonical import canonical, first_difference
from .errors import CacheError

FORMAT_VERSION = 1
HEADER_BYTES = 8
"""Of each record: the checksum of its image and that of its payload."""
_FILE_NAME = 'manifest.json'


def serves(stored: str, wanted: str) -> bool:
    """Return whether what is stored of a source can be read in place of what a loss needs of it.

    Args:
        stored: The content that is stored.
        wanted: The content that the loss needs.
    """
    return stored in (wanted, 'features') or (stored, wanted) == ('logits', 'class')


@dataclass(frozen=True)
class Entry:
    """One stored output of the teacher.

    Attributes:
        tap: Module path in the teacher.
        tokenizer: Config of the tokenizer; None for a bare tap.
        merger: Config of the merger; None for a bare tap.
        content: What of the output is stored, such as ``'relations'``; ``'features'`` is all of it. It is the
            ``teacher_content`` of the losses that read it.
        format: Settings of its :class:`RecordFormat`.
        grid: (height, width) of the token grid; None without one.
        offset: Position of its first byte in the payload of a record.
        num_bytes: Bytes of each image.
    """

    tap: str
    tokenizer: dict[str, Any] | None
    merger: dict[str, Any] | None
    content: str
    format: dict[str, Any]
    grid: list[int] | None
    offset: int
    num_bytes: int


@dataclass(frozen=True)
class Manifest:
    """The description of a teacher cache.

    Attributes:
        num_views: Number of augmented versions of the data set.
        seed: Seed of the views.
        num_images: Images of the data set.
        num_positions: Records of each view: the images, rounded up to pairs where images are mixed.
        shard_size: Records of a file; the last file of a view may be smaller.
        dtype: ``'float16'`` or ``'float32'``.
        augments: Mixing of images; None without it.
        teacher: The resolved config of the teacher, its input size, dtypes and checksums.
        taps: Module path of each tap, by name.
        entries: The stored outputs, in the order of their bytes.
        data: Fingerprint of the data set and its pipelines.
        versions: Of the packages that decode and augment images.
        complete: Whether all records are written. Default: False.
        format_version: Version of the files' layout. Default: that of this package.
    """

    num_views: int
    seed: int
    num_images: int
    num_positions: int
    shard_size: int
    dtype: str
    augments: dict[str, Any] | None
    teacher: dict[str, Any]
    taps: dict[str, str]
    entries: list[Entry]
    data: dict[str, Any]
    versions: dict[str, str]
    complete: bool = False
    format_version: int = FORMAT_VERSION

    @property
    def record_bytes(self) -> int:
        """Bytes of a record: its header and its payload."""
        return HEADER_BYTES + sum(entry.num_bytes for entry in self.entries)

    @property
    def num_shards(self) -> int:
        """Number of files of each view."""
        return -(-self.num_positions // self.shard_size)

    def shard_length(self, shard: int) -> int:
        """Number of records of a file."""
        return min(self.shard_size, self.num_positions - shard * self.shard_size)

    @property
    def identity(self) -> str:
        """Checksum of all that determines the records, and of the versions: equal for the same cache only."""
        content = {name: value for name, value in self._as_json().items() if name != 'complete'}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def differences(self, other: 'Manifest') -> list[str]:
        """Describe what differs in another manifest, except versions and completeness.

        Args:
            other: The manifest as it would be now.

        Returns:
            One description for each attribute that differs, such as ``'seed was 0 and is 1'``.
        """
        stored, present = self._as_json(), other._as_json()
        found = [
            first_difference(stored[name], present[name], name) for name in stored if name not in ('complete', 'versions')
        ]
        return [difference for difference in found if difference]

    def save(self, folder: str | Path) -> None:
        """Write ``manifest.json``, which appears complete or not at all.

        Raises:
            WriteError: The file cannot be written.
        """
        content = json.dumps(self._as_json(), indent=1)
        write_atomically(content.encode(), Path(folder) / _FILE_NAME, 'the same command then continues')

    @classmethod
    def load(cls, folder: str | Path) -> 'Manifest':
        """Read the manifest of a cache.

        Raises:
            CacheError: There is none, it is damaged, or a newer version of this package has written it.
        """
        path = Path(folder) / _FILE_NAME
        try:
            content = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            if not Path(folder).exists():
                raise CacheError(
                    f'{folder}: there is no such folder. If the cache was moved, set model.teacher.cache and '
                    'train_dataloader.dataset.cache to its new path'
                ) from error
            raise CacheError(
                f'{folder} holds no {_FILE_NAME}, so it is no teacher cache. Make one with tools/cache_teacher.py'
            ) from error
        except (OSError, ValueError) as error:
            raise CacheError(f'{path} cannot be read: {error}. Make the cache anew with tools/cache_teacher.py') from error
        version = content.get('format_version') if isinstance(content, dict) else None
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise CacheError(
                f'{folder} was made by a newer version of serkd-mm: its format has version {version}, and this one reads up '
                f'to {FORMAT_VERSION}. Update serkd-mm, or make the cache anew'
            )
        try:
            entries = [Entry(**entry) for entry in content.pop('entries')]
            return cls(**content, entries=entries)
        except (AttributeError, KeyError, TypeError) as error:
            raise CacheError(f'{path} is damaged: {error}. Make the cache anew with tools/cache_teacher.py') from error

    def _as_json(self) -> dict[str, Any]:
        """All attributes as JSON reads them back."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        return canonical({**content, 'entries': [vars(entry) for entry in self.entries]})
