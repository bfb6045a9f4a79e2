"""Run tools/cache_teacher.py in this process, and trainings of what it writes."""

import sys
from functools import partial
from pathlib import Path

import torch
from builders import REPOSITORY, TEACHER, run_command, training_config
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmpretrain.registry import MODELS

from serkd_mm.runner import CheckedRunner, check_config

run = partial(run_command, timeout=300, PYTHONWARNINGS='ignore')


def save_teacher(path, seed=7):
    """Write random weights of the small teacher."""
    torch.manual_seed(seed)
    torch.save(MODELS.build(dict(TEACHER)).state_dict(), path)
    return path


def write_config(path, root, teacher, losses=None, **changes):
    """Write the config of a training of the small pair; ``losses`` are those that stay."""
    settings = {'model.teacher.checkpoint': str(teacher), 'model.teacher.allow_random_teacher': False, **changes}
    config = training_config(root, path.parent / 'work', **settings)
    if losses is not None:
        config.model.losses = {name: loss for name, loss in config.model.losses.items() if name in losses}
    config.dump(path)
    return path


def cache_teacher(monkeypatch, *arguments):
    """Run the tool; its errors are raised."""
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
    monkeypatch.setattr(torch.cuda, 'set_device', torch.cuda.set_device)  # The tool replaces it.
    monkeypatch.syspath_prepend(REPOSITORY / 'tools')
    import cache_teacher as tool  # noqa: PLC0415 (a script)

    monkeypatch.setattr(sys, 'argv', ['cache_teacher.py', *map(str, arguments)])
    level = MMLogger.get_current_instance().level
    try:
        tool.main()
    finally:
        MMLogger.get_current_instance().setLevel(level)


def train(path, work_dir, **changes):
    """Train a config as tools/train.py does; return the runner."""
    config = Config.fromfile(path)
    config.merge_from_dict({'work_dir': str(work_dir), 'experiment_name': Path(work_dir).name, **changes})
    check_config(config, Config.fromfile(path), {})
    runner = CheckedRunner.from_cfg(config)
    runner.train()
    return runner


def records_of(folder):
    """The content of all record files by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).glob('view_*/*'))}
