"""mmpretrain's own command-line tools, run with what distillation needs changed in the config."""

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

from serkd_mm.distillers.teacher_weights import read_checkpoint

# Checkpoints are read without running code, also by loaders that would fall back to unsafe loading. Set to 0 to allow that.
os.environ.setdefault('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')


def run(name: str, adapt: Callable[[Config], None]) -> None:
    """Run ``tools/<name>.py`` of the installed mmpretrain on the current command line.

    Args:
        name: The tool, 'train' or 'test'.
        adapt: Changes the config after the tool has merged its command line into it.

    Raises:
        FileNotFoundError: The installed mmpretrain comes without its tools.
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
    """End the threads of gloo before Python ends: one that frees a tensor after that aborts the process.

    The model holds the process group too and is part of reference cycles, so destroying the group alone ends no thread.
    """
    if torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()


def check_checkpoint(config: Config) -> None:
    """Refuse a checkpoint that is not there, is damaged or would run code, before anything is built.

    Raises:
        ConfigError: It can not be read; the message names it.
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
    """Let mmengine's launchers work without a GPU: they select a CUDA device, NCCL and a device for each process."""
    torch.cuda.set_device = lambda device: None
    config.env_cfg.dist_cfg.backend = 'gloo'
    wrapper = {'type': 'MMDistributedDataParallel', 'device_ids': None, **(config.get('model_wrapper_cfg') or {})}
    wrapper.setdefault('find_unused_parameters', config.get('find_unused_parameters', False))
    config.model_wrapper_cfg = wrapper
    if (config.get('optim_wrapper') or {}).get('type') == 'AmpOptimWrapper':  # --amp; it refuses a CPU
        config.optim_wrapper.type = 'AutocastOptimWrapper'
        config.optim_wrapper.pop('loss_scale', None)
