"""Reading and writing checkpoints: atomic writes, and loading that runs no code."""

from .atomic_backend import AtomicBackend
from .safe_loading import CheckpointError, allow_mmengine_checkpoints, read_checkpoint

__all__ = ['AtomicBackend', 'CheckpointError', 'allow_mmengine_checkpoints', 'read_checkpoint']
