"""Train a config: mmpretrain's tools/train.py with all its flags, also on machines without a GPU.

python tools/train.py CONFIG [--work-dir DIR] [--resume [CHECKPOINT]] [--amp] [--overwrite] [--resume-elastic]
    [--cfg-options KEY=VALUE ...]
"""

import mmpretrain_tools
from mmpretrain_tools import HookFlag

import serkd_mm  # noqa: F401  (registers the components, and reports a missing package)

FLAGS = [
    HookFlag(
        '--overwrite',
        'WorkDirCheckHook',
        'overwrite',
        'start from the beginning although the work folder holds checkpoints, and overwrite them',
    ),
    HookFlag(
        '--resume-elastic',
        'ResumeCheckHook',
        'elastic',
        'resume with another number of ranks, batch size or accumulation than before',
    ),
]


def allow_no_workers(config) -> None:
    """Turn persistent workers off where ``num_workers`` is 0: mmpretrain's tool turns them on for every loader."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = config.get(name)
        if loader and not loader.get('num_workers'):
            loader.persistent_workers = False


if __name__ == '__main__':
    mmpretrain_tools.run('train', allow_no_workers, FLAGS)
