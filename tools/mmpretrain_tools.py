"""Run the command-line tools of mmpretrain on a config that is adapted to distillation."""

import gc
import importlib.util
import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import mmpretrain
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import find_latest_checkpoint

from serkd_mm.fileio.safe_loading import read_checkpoint

# Checkpoints are loaded without running code, also where a loader would fall back to unsafe loading. 0 allows that.
os.environ.setdefault('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')


def run(name: str, adapt: Callable[[Config], None]) -> None:
    """Run ``tools/<name>.py`` of the installed mmpretrain on the current command line.

    Args:
        name: The tool, 'train' or 'test'.
        adapt: Changes the config after the tool has merged its command line into it.

    Raises:
        FileNotFoundError: mmpretrain is installed without its tools.
    """
    path = Path(mmpretrain.__file__).parent / '.mim' / 'tools' / f'{name}.py'
    if not path.is_file():
        raise FileNotFoundError(f'mmpretrain is installed without its tools ({path}); install it with pip or mim')
    spec = importlib.util.spec_from_file_location(f'mmpretrain_tools_{name}', path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    merge_args = tool.merge_args

    def merge_and_adapt(config: Config, args: Namespace) -> Config:
        config = merge_args(config, args)
        adapt(config)
        check_checkpoint(config)
        if get_device() == 'cpu':
            run_on_cpu(config)
        return config

    tool.merge_args = merge_and_adapt
    tool.main()
    end_process_group()


def end_process_group() -> None:
    """End the threads of gloo before Python exits: a thread that frees a tensor after that aborts the process.

    The model refers to the process group and is part of reference cycles, so it must be collected first.
    """
    if torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()


def check_checkpoint(config: Config) -> None:
    """Check the checkpoint of ``load_from`` or ``resume`` before anything is built.

    Raises:
        CheckpointError: It is missing, is damaged or would run code; the message names it.
    """
    path, where = config.get('load_from'), 'load_from={!r}'
    if not path and config.get('resume'):
        path, where = (
            find_latest_checkpoint(config.work_dir),
            '--resume finds {!r} (--resume FILE continues from another), which',
        )
    if path and '://' not in path:
        read_checkpoint(path, where.format(path))


def run_on_cpu(config: Config) -> None:
    """Replace what needs a GPU in mmengine: a CUDA device for each process, NCCL and the AMP wrapper."""
    torch.cuda.set_device = lambda device: None
    config.env_cfg.dist_cfg.backend = 'gloo'
    wrapper = {'type': 'MMDistributedDataParallel', 'device_ids': None, **(config.get('model_wrapper_cfg') or {})}
    wrapper.setdefault('find_unused_parameters', config.get('find_unused_parameters', False))
    config.model_wrapper_cfg = wrapper
    if (config.get('optim_wrapper') or {}).get('type') == 'AmpOptimWrapper':  # From --amp; it does not run on a CPU.
        config.optim_wrapper.type = 'AutocastOptimWrapper'
        config.optim_wrapper.pop('loss_scale', None)
