"""A file backend whose writes are atomic: a file is complete or unchanged, even if the process is killed."""

import os
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend


@register_backend('atomic', force=True)
class AtomicBackend(LocalBackend):
    """mmengine's ``LocalBackend`` with atomic writes: a file gets its name only after all of it is on the disk.

    A config selects it with ``backend_args=dict(backend='atomic')``. A killed process may leave a hidden file
    ``.NAME.partial``; the next write of the same file replaces it.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes atomically.

        Args:
            obj: Content of the file.
            filepath: Path of the file. Missing folders are created.
        """
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f'.{path.name}.partial')
        with partial.open('wb') as file:
            file.write(obj)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text atomically.

        Args:
            obj: Content of the file.
            filepath: Path of the file. Missing folders are created.
            encoding: Encoding of the text. Default: ``'utf-8'``.
        """
        self.put(obj.encode(encoding), filepath)
