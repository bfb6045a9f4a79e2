"""Train a config: mmpretrain's tools/train.py with all its flags, also on machines without a GPU.

python tools/train.py CONFIG [--work-dir DIR] [--resume [CHECKPOINT]] [--amp] [--cfg-options KEY=VALUE ...]
"""

import mmpretrain_tools

import serkd_mm  # noqa: F401  (registers the components, and reports a missing package)


def allow_no_workers(config) -> None:
    """Turn persistent workers off where ``num_workers`` is 0: mmpretrain's tool turns them on for every loader."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = config.get(name)
        if loader and not loader.get('num_workers'):
            loader.persistent_workers = False


if __name__ == '__main__':
    mmpretrain_tools.run('train', allow_no_workers)
