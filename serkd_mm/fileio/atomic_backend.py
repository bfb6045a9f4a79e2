"""A file backend whose writes are atomic: a file is complete or unchanged, even if the process is killed."""

import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from ..errors import UserError

_PARTIAL = '.partial'


class WriteError(UserError, OSError):
    """A file could not be written, for example because the disk is full. The message names the file."""


@register_backend('atomic', force=True)
class AtomicBackend(LocalBackend):
    """mmengine's ``LocalBackend`` with atomic writes: a file gets its name only after all of it is on the disk.

    A config selects it with ``backend_args=dict(backend='atomic')``. Every write has a temporary file of its own,
    ``.NAME.PID-RANDOM.partial``, so several processes never write the same one. A killed process may leave it;
    :func:`remove_partial_files` removes it.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes atomically.

        Args:
            obj: Content of the file.
            filepath: Path of the file. Missing folders are created.

        Raises:
            WriteError: The disk is full, the file exceeds a limit, or the folder cannot be written. Nothing remains of the
                attempt, and an existing file is unchanged.
        """
        write_atomically(obj, filepath, '--resume then continues from the last checkpoint')

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text atomically.

        Args:
            obj: Content of the file.
            filepath: Path of the file. Missing folders are created.
            encoding: Encoding of the text. Default: ``'utf-8'``.
        """
        self.put(obj.encode(encoding), filepath)


def write_atomically(content: bytes, path: str | Path, after: str) -> None:
    """Write a file such that it is complete or unchanged, even if the process is killed.

    Args:
        content: Content of the file.
        path: Path of the file. Missing folders are created.
        after: What continues after there is room again, for the message.

    Raises:
        WriteError: The disk is full, the file exceeds a limit, or the folder cannot be written. Nothing remains of the
            attempt, and an existing file is unchanged.
    """
    path = Path(path)
    partial = path.with_name(f'.{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}{_PARTIAL}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise WriteError(
            f'{path} ({len(content) / 2**20:.1f} MiB) could not be written: {error.strerror or error}. Existing files are '
            f'unchanged. Make room or raise the limit; {after}'
        ) from error
    finally:
        with suppress(OSError):  # After the rename, there is none.
            partial.unlink()


def remove_partial_files(folder: str | Path) -> Iterator[Path]:
    """Remove and yield the temporary files in a folder. No other process may be writing there."""
    for path in Path(folder).glob(f'.*{_PARTIAL}'):
        path.unlink(missing_ok=True)
        yield path
