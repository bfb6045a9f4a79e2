"""Run the command-line tools of mmpretrain on a config that is adapted to distillation."""

import argparse
import copy
import gc
import importlib.util
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import mmpretrain
import torch
from mmengine.config import Config
from mmengine.device import get_device

from serkd_mm.config_errors import ConfigError
from serkd_mm.config_files import OptionsAction, merge_options, read_config, type_name
from serkd_mm.errors import one_line_errors
from serkd_mm.fileio.safe_loading import CheckpointError, read_checkpoint
from serkd_mm.fileio.work_dir import latest_checkpoint
from serkd_mm.runner import CheckedRunner, check_config

# Checkpoints are loaded without running code, also where a loader would fall back to unsafe loading. 0 allows that.
os.environ.setdefault('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')


@dataclass(frozen=True)
class HookFlag:
    """A flag of the command line that turns a setting of a hook on.

    Attributes:
        flag: The flag, such as ``'--overwrite'``.
        hook: Type of the hook in ``custom_hooks``.
        setting: The setting of the hook that becomes True.
        help: Description in ``--help``.
    """

    flag: str
    hook: str
    setting: str
    help: str

    def apply(self, config: Config) -> None:
        """Set the setting of the hook.

        Raises:
            ConfigError: The config does not have the hook.
        """
        hooks = [hook for hook in config.get('custom_hooks') or () if type_name(hook) == self.hook]
        if not hooks:
            raise ConfigError(f"{self.flag} needs dict(type='{self.hook}') in custom_hooks, as in configs/_base_/runtime.py")
        hooks[0][self.setting] = True


def run(name: str, adapt: Callable[[Config], None], flags: Sequence[HookFlag] = ()) -> None:
    """Run ``tools/<name>.py`` of the installed mmpretrain on the current command line.

    Args:
        name: The tool, 'train' or 'test'.
        adapt: Changes the config after the tool has merged its command line into it.
        flags: Flags in addition to those of the tool. Default: none.

    Raises:
        SystemExit: An error for the user has been printed.
        FileNotFoundError: mmpretrain is installed without its tools.
    """
    path = Path(mmpretrain.__file__).parent / '.mim' / 'tools' / f'{name}.py'
    if not path.is_file():
        raise FileNotFoundError(f'mmpretrain is installed without its tools ({path}); install it with pip or mim')
    spec = importlib.util.spec_from_file_location(f'mmpretrain_tools_{name}', path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    add_flags(tool, flags)
    tool.Config, tool.DictAction = SimpleNamespace(fromfile=read_config), OptionsAction
    merge_args = tool.merge_args

    def merge_and_adapt(config: Config, args: argparse.Namespace) -> Config:
        before = copy.deepcopy(config)
        options, args.cfg_options = args.cfg_options, None
        config = merge_args(config, args)
        merge_options(config, options)
        check_config(config, before, options, training=name == 'train')
        for flag in flags:
            if getattr(args, flag.flag):
                flag.apply(config)
        adapt(config)
        check_checkpoint(config)
        if get_device() == 'cpu':
            run_on_cpu(config)
            if name == 'train':
                autocast_on_cpu(config)
        return config

    logging.raiseExceptions = False  # A full disk ends the run at its next file; the log would print a traceback a line.
    tool.merge_args, tool.Runner = merge_and_adapt, CheckedRunner
    with one_line_errors():
        tool.main()
        end_process_group()


def add_flags(tool: ModuleType, flags: Sequence[HookFlag]) -> None:
    """Add flags to the parser that a tool of mmpretrain creates, so that ``--help`` lists them too."""

    class Parser(argparse.ArgumentParser):
        def parse_args(self, *args, **kwargs):
            group = self.add_argument_group('serkd-mm')
            for flag in flags:
                group.add_argument(flag.flag, dest=flag.flag, action='store_true', help=flag.help)
            return super().parse_args(*args, **kwargs)

    tool.argparse = SimpleNamespace(**{**vars(argparse), 'ArgumentParser': Parser})


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
        CheckpointError: It is missing, is damaged, would run code or holds no weights; the message names it.
    """
    path, where = config.get('load_from'), '--resume {!r}' if config.get('resume') else 'load_from={!r}'
    if not path and config.get('resume'):
        path, where = (
            latest_checkpoint(config.work_dir),
            '--resume finds {!r} (--resume FILE continues from another), which',
        )
    if path and '://' not in path:
        checkpoint = read_checkpoint(path, where.format(path))
        if not isinstance(checkpoint, Mapping):
            raise CheckpointError(f'{where.format(path)} holds a {type(checkpoint).__name__}, but no weights by name')


def run_on_cpu(config: Config) -> None:
    """Replace what needs a GPU in mmengine: a CUDA device for each process, NCCL and the AMP wrapper."""
    torch.cuda.set_device = lambda device: None
    config.merge_from_dict({'env_cfg.dist_cfg.backend': 'gloo'})
    wrapper = {'type': 'MMDistributedDataParallel', 'device_ids': None, **(config.get('model_wrapper_cfg') or {})}
    wrapper.setdefault('find_unused_parameters', config.get('find_unused_parameters', False))
    config.model_wrapper_cfg = wrapper


def autocast_on_cpu(config: Config) -> None:
    """Replace mmengine's AMP wrapper, which --amp and configs set and which needs a GPU, by bfloat16 autocast.

    Raises:
        ConfigError: The config asks for another dtype.
    """
    wrapper = config.get('optim_wrapper') or {}
    if type_name(wrapper) != 'AmpOptimWrapper':
        return
    dtype = str(wrapper.pop('dtype', None) or 'bfloat16').removeprefix('torch.')
    if dtype != 'bfloat16':
        raise ConfigError(
            f'optim_wrapper.dtype={dtype!r} needs a GPU: mixed precision on a CPU is bfloat16. Set '
            'optim_wrapper.dtype=bfloat16 or leave it out'
        )
    wrapper.type = 'AutocastOptimWrapper'
    for name in ('loss_scale', 'use_fsdp'):
        wrapper.pop(name, None)
