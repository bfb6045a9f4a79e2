"""Train a config: mmpretrain's tools/train.py with all its flags, also on machines without a GPU.

python tools/train.py CONFIG [--work-dir DIR] [--resume [CHECKPOINT]] [--amp] [--overwrite] [--resume-elastic]
    [--cfg-options KEY=VALUE ...]
"""

import sys
from pathlib import Path

import mmpretrain_tools
from mmpretrain_tools import HookFlag

import serkd_mm  # noqa: F401  (registers the components, and reports a missing package)
from serkd_mm.config_files import type_name
from serkd_mm.fileio.run_lock import RunLock
from serkd_mm.fileio.urls import conceal_teacher
from serkd_mm.fileio.work_dir import checkpoint_folder, find_start
from serkd_mm.hooks.work_dir_lock_hook import LOCK_FILE

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
        'resume, also with another number of ranks, batch size or accumulation than before',
    ),
]


def adapt(config) -> None:
    """Check the work folder before anything is built, keep passwords out of what is written, and adapt the config."""
    warn_about_missing_hooks(config)
    resume_if_elastic(config)
    check_work_dir(config)
    conceal_teacher(config)
    allow_no_workers(config)


def warn_about_missing_hooks(config) -> None:
    """Warn if a child config has replaced the hooks of ``configs/_base_/runtime.py`` instead of adding to them."""
    saving = (config.get('default_hooks') or {}).get('checkpoint') or {}
    present = {type_name(hook) for hook in config.get('custom_hooks') or ()}
    if type_name(saving) == 'SafeCheckpointHook' and not {'WorkDirLockHook', 'ResumeCheckHook'} & present:
        print(
            'warning: custom_hooks lacks hooks of configs/_base_/runtime.py, so resuming may not be exact, and another run '
            'may overwrite this one. A list replaces that of the base config: write '
            'custom_hooks = _base_.custom_hooks + [dict(type=...)]',
            file=sys.stderr,
            flush=True,
        )


def resume_if_elastic(config) -> None:
    """Resume if ``--resume-elastic`` is given without ``--resume``."""
    if any(hook.get('elastic') for hook in config.get('custom_hooks') or () if type_name(hook) == 'ResumeCheckHook'):
        config.resume = True


def check_work_dir(config) -> None:
    """Run the checks of ``WorkDirLockHook`` and ``WorkDirCheckHook`` early: a Runner writes its config into the folder.

    Raises:
        WorkDirError: Another run is using the folder, or this one would overwrite checkpoints.
    """
    hooks = {type_name(hook): hook for hook in config.get('custom_hooks') or ()}
    if 'WorkDirLockHook' in hooks:
        RunLock(Path(config.work_dir) / LOCK_FILE).refuse_if_held()
    if 'WorkDirCheckHook' in hooks:
        saving = (config.get('default_hooks') or {}).get('checkpoint', {})  # None: this run saves nothing.
        folder = None if saving is None else checkpoint_folder(config.work_dir, saving.get('out_dir'))
        overwrite = hooks['WorkDirCheckHook'].get('overwrite', False)
        find_start(config.work_dir, folder, config.get('resume', False), config.get('load_from'), overwrite)


def allow_no_workers(config) -> None:
    """Turn persistent workers off where ``num_workers`` is 0: mmpretrain's tool turns them on for every loader."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = config.get(name)
        if loader and not loader.get('num_workers'):
            loader.persistent_workers = False


if __name__ == '__main__':
    mmpretrain_tools.run('train', adapt, FLAGS)
