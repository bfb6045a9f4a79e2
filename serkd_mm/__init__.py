"""serkd-mm: semantic relation distillation (SeRKD) as a plugin for mmpretrain.

Importing this package registers all components in mmpretrain's registries, so configs refer to them without a scope.
"""

from .version import __version__

try:
    import mmcv  # noqa: F401
    import mmengine  # noqa: F401
    import mmpretrain  # noqa: F401
except ImportError as error:
    raise ImportError(
        f'serkd-mm is a plugin for mmpretrain, which could not be imported ({error}). Install the OpenMMLab packages with '
        '`pip install "serkd-mm[mmlab]"`, or their maintained forks with `pip install "serkd-mm[onedl]"`.'
    ) from error

from . import (
    backbones,
    distillers,
    evaluation,
    heads,
    hooks,
    losses,
    mergers,
    optim,
    runner,
    strategies,
    teacher_cache,
    tokenizers,
    visualization,
)
from .fileio import allow_mmengine_checkpoints

allow_mmengine_checkpoints()

__all__ = [
    '__version__',
    'backbones',
    'distillers',
    'evaluation',
    'heads',
    'hooks',
    'losses',
    'mergers',
    'optim',
    'runner',
    'strategies',
    'teacher_cache',
    'tokenizers',
    'visualization',
]
