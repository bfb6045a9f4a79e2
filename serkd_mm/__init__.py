"""serkd-mm: semantic relation distillation (SeRKD) as a plugin for mmpretrain.

Importing this package registers every component in mmpretrain's own registries, so that configs name them without a scope.
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

from . import analysis, distillers, fileio, heads, hooks, losses, mergers, optim, tokenizers, visualization

fileio.allow_mmengine_checkpoints()

__all__ = [
    '__version__',
    'analysis',
    'distillers',
    'fileio',
    'heads',
    'hooks',
    'losses',
    'mergers',
    'optim',
    'tokenizers',
    'visualization',
]
