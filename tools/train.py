"""Train a config: mmpretrain's tools/train.py with all its flags, also on machines without a GPU.

python tools/train.py CONFIG [--work-dir DIR] [--resume [CHECKPOINT]] [--amp] [--cfg-options KEY=VALUE ...]
"""

import mmpretrain_tools

import serkd_mm  # noqa: F401  (registers the components, and says so clearly where a package is missing)


def keep_config(config) -> None:
    """Training changes nothing in the config."""


if __name__ == '__main__':
    mmpretrain_tools.run('train', keep_config)
