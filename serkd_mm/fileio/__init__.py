"""Reading and writing checkpoints: atomic writes, and loading that runs no code."""

from .atomic_backend import AtomicBackend, WriteError
from .safe_loading import CheckpointError, allow_mmengine_checkpoints, read_checkpoint
from .work_dir import WorkDirError, latest_checkpoint

__all__ = [
    'AtomicBackend',
    'CheckpointError',
    'WorkDirError',
    'WriteError',
    'allow_mmengine_checkpoints',
    'latest_checkpoint',
    'read_checkpoint',
]
