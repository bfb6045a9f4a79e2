"""Files that are whole or not there, whenever a process is killed."""

import os
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend


@register_backend('atomic', force=True)
class AtomicBackend(LocalBackend):
    """Local files as mmengine reads and writes them, but that a file takes its name once it is on the disk whole.

    A config asks for it with ``backend_args=dict(backend='atomic')``. What a killed process leaves behind, a hidden file
    ``.NAME.partial``, the next writing of the same file replaces.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes; until that is done, the file is what it was before."""
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f'.{path.name}.partial')
        with partial.open('wb') as file:
            file.write(obj)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text; until that is done, the file is what it was before."""
        self.put(obj.encode(encoding), filepath)
