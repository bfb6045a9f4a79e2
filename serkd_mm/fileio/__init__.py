"""Reading, writing and downloading checkpoints: atomic writes, and loading that runs no code."""

from .atomic_backend import AtomicBackend, WriteError
from .downloads import DownloadError, download
from .safe_loading import CheckpointError, allow_mmengine_checkpoints, read_checkpoint
from .urls import conceal_teacher
from .work_dir import WorkDirError, latest_checkpoint

__all__ = [
    'AtomicBackend',
    'CheckpointError',
    'DownloadError',
    'WorkDirError',
    'WriteError',
    'allow_mmengine_checkpoints',
    'conceal_teacher',
    'download',
    'latest_checkpoint',
    'read_checkpoint',
]
