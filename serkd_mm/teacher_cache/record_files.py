"""Records of a teacher cache: one for each position of each view, of a fixed size, in files that are mapped into memory.

A record is the CRC32 of the augmented image, the CRC32 of the payload, both little endian, and the payload. Shard s of a
view holds the records of positions s * shard_size and up, in order: ``view_00003/shard_00000.bin``. A file that is being
written is called ``.partial``.
"""

import os
import zlib
from collections.abc import Sequence
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from ..fileio.atomic_backend import WriteError
from .errors import CacheError
from .formats import RecordFormat, build_format
from .manifest import HEADER_BYTES, Manifest


def shard_path(folder: str | Path, view: int, shard: int) -> Path:
    """Return the path of a finished shard."""
    return Path(folder) / f'view_{view:05d}' / f'shard_{shard:05d}.bin'


def partial_path(folder: str | Path, view: int, shard: int) -> Path:
    """Return the path of a shard that is being written."""
    return shard_path(folder, view, shard).with_suffix('.partial')


class ShardWriter:
    """Writes the records of a shard, and goes on where an earlier process was stopped.

    Records that were written completely are kept, up to the first one whose checksum is wrong. A finished shard is left as
    it is. No other process may write the same shard.

    Args:
        folder: Folder of the cache.
        manifest: Its manifest.
        view: Number of the view.
        shard: Number of the shard.

    Attributes:
        num_written: Number of records that are written: the next one is that of position shard * shard_size + num_written.
        num_records: Number of records of the whole shard.

    Raises:
        WriteError: The file cannot be opened.
    """

    def __init__(self, folder: str | Path, manifest: Manifest, view: int, shard: int) -> None:
        self.path, self._partial = shard_path(folder, view, shard), partial_path(folder, view, shard)
        self.num_records = manifest.shard_length(shard)
        self._record_bytes = manifest.record_bytes
        self._file: FileIO | None = None
        if self.path.exists():
            self.num_written = self.num_records
            return
        try:
            self._file = self._open()
            self.num_written = self._count_valid()
            self._file.truncate(self.num_written * self._record_bytes)
        except OSError as error:
            raise self._write_error(error) from error

    def append(self, image_checksums: Sequence[int] | np.ndarray, payloads: np.ndarray) -> None:
        """Write the records of the next positions.

        Args:
            image_checksums: CRC32 of each augmented image, ``(B,)``.
            payloads: uint8 ``(B, record_bytes - 8)``.

        Raises:
            WriteError: The disk is full or the file exceeds a limit. The records of earlier calls remain, and appending the
                same records works as soon as there is room.
            ValueError: The payloads have another size, or there are more than the shard holds.
        """
        if payloads.shape != (len(image_checksums), self._record_bytes - HEADER_BYTES) or payloads.dtype != np.uint8:
            raise ValueError(
                f'{self.path}: payloads must be uint8 {(len(image_checksums), self._record_bytes - HEADER_BYTES)}, but got '
                f'{payloads.dtype} {payloads.shape}'
            )
        if self.num_written + len(payloads) > self.num_records:
            raise ValueError(f'{self.path} holds {self.num_records} records, {self.num_written} are written')
        checksums = np.empty((len(payloads), 2), '<u4')
        checksums[:, 0] = image_checksums
        checksums[:, 1] = [zlib.crc32(np.ascontiguousarray(payload)) for payload in payloads]
        records = np.concatenate([checksums.view(np.uint8), payloads], axis=1)
        try:
            self._write(records.tobytes())
        except OSError as error:
            raise self._write_error(error) from error
        self.num_written += len(payloads)

    def finish(self) -> None:
        """Put all records on the disk, and give the file its final name.

        Raises:
            WriteError: The disk is full.
            ValueError: Records are missing.
        """
        if self.num_written != self.num_records:
            raise ValueError(f'{self.path}: {self.num_written} of {self.num_records} records are written')
        if self._file is None:
            return
        try:
            os.fsync(self._file.fileno())
            self.close()
            self._partial.replace(self.path)
        except OSError as error:
            raise self._write_error(error) from error

    def close(self) -> None:
        """Close the file; what is written stays, to go on later."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> FileIO:
        """Open the unfinished file, new if there is none; without a buffer, so that a kill loses nothing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._partial.touch()
        return self._partial.open('r+b', buffering=0)

    def _count_valid(self) -> int:
        """Count the records up to the first one that is incomplete or has a wrong checksum."""
        for number in range(self.num_records):
            record = self._file.read(self._record_bytes)
            if len(record) < self._record_bytes or not _is_valid(record):
                return number
        return self.num_records

    def _write(self, content: bytes) -> None:
        """Write behind the records that are written, over what a failed attempt has left; all bytes, or raise."""
        self._file.seek(self.num_written * self._record_bytes)
        remaining = memoryview(content)
        while remaining:
            remaining = remaining[self._file.write(remaining) :]

    def _write_error(self, error: OSError) -> WriteError:
        """The error for a user; a shard can be continued."""
        return WriteError(
            f'{self._partial} could not be written: {error.strerror or error}. The records before are kept. Make room or '
            'raise the limit, and run the same command again: it goes on where it was'
        )


class TeacherCache:
    """Reads the records of a teacher cache.

    Files are mapped into memory when a process first needs them; only those of the view that was read last stay open. A
    copy in another process opens its own.

    Args:
        folder: Folder of the cache.
        unfinished: Whether a cache may be read that is not complete. Default: False.

    Attributes:
        folder: The folder.
        manifest: The manifest.

    Raises:
        CacheError: There is no cache, it is not complete, or a file is missing or truncated.
    """

    def __init__(self, folder: str | Path, unfinished: bool = False) -> None:
        self.folder = Path(folder)
        self.manifest = Manifest.load(folder)
        self._view: int | None = None
        self._shards: dict[int, np.ndarray] = {}
        if unfinished:
            return
        if not self.manifest.complete:
            raise CacheError(
                f'{folder} is not complete: making it was interrupted. Run the same tools/cache_teacher.py command again, '
                'it goes on where it was'
            )
        for view in range(self.manifest.num_views):
            for shard in range(self.manifest.num_shards):
                self._check_size(view, shard)

    @cached_property
    def formats(self) -> list[RecordFormat]:
        """The format of each entry, built when it is first needed.

        Raises:
            CacheError: The file of a basis is missing or damaged.
        """
        return [build_format(entry.format, self.folder) for entry in self.manifest.entries]

    def record(self, view: int, position: int) -> tuple[int, np.ndarray]:
        """Read a record.

        Args:
            view: Number of the view.
            position: Position in the view.

        Returns:
            The checksum of the augmented image, and a copy of the payload, uint8 ``(record_bytes - 8,)``.

        Raises:
            CacheError: The record is damaged, or its file is missing or truncated.
            IndexError: There is no such view or position.
        """
        if not (0 <= view < self.manifest.num_views and 0 <= position < self.manifest.num_positions):
            raise IndexError(f'{self.folder} has no record of view {view}, position {position}')
        shard, number = divmod(position, self.manifest.shard_size)
        record = self._shard(view, shard)[number].tobytes()
        if not _is_valid(record):
            raise CacheError(
                f'{shard_path(self.folder, view, shard)} is damaged: record {number} does not have its checksum. Delete '
                'this file and run the same tools/cache_teacher.py command again'
            )
        return int.from_bytes(record[:4], 'little'), np.frombuffer(record, np.uint8, offset=HEADER_BYTES).copy()

    def _shard(self, view: int, shard: int) -> np.ndarray:
        """Records ``(n, record_bytes)`` of a file, mapped."""
        if view != self._view:
            self._view, self._shards = view, {}
        if shard not in self._shards:
            shape = self._check_size(view, shard)
            self._shards[shard] = np.memmap(shard_path(self.folder, view, shard), np.uint8, 'r', shape=shape)
        return self._shards[shard]

    def _check_size(self, view: int, shard: int) -> tuple[int, int]:
        """Check that a file exists and has its size, and return the shape of its records.

        Raises:
            CacheError: It is missing or has another size.
        """
        path = shard_path(self.folder, view, shard)
        shape = self.manifest.shard_length(shard), self.manifest.record_bytes
        size, expected = _size(path), shape[0] * shape[1]
        if size == expected:
            return shape
        what, delete = ('is missing', '') if size is None else (f'has {size} bytes instead of {expected}', 'delete it and ')
        raise CacheError(
            f'{path} {what}. Copy the file again if the cache was copied, or {delete}run the same tools/cache_teacher.py '
            'command again'
        )

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, '_view': None, '_shards': {}}
        state.pop('formats', None)  # Bases may be on a device.
        return state


def _is_valid(record: bytes) -> bool:
    """Whether the payload has the checksum that it was written with."""
    stored = int.from_bytes(record[4:HEADER_BYTES], 'little')
    return zlib.crc32(memoryview(record)[HEADER_BYTES:]) == stored


def _size(path: Path) -> int | None:
    """Return the size of a file, None without one."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
