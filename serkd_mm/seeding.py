"""Seeds that follow from the seed of the run and a position in it, so that a resumed run draws the same numbers."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.dist import get_rank
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Sampler, get_worker_info


def run_seed(runner: Runner) -> int:
    """Return the seed of the run, which is equal on all ranks also with ``randomness.diff_rank_seed``."""
    return runner.seed - (get_rank() if runner._randomness_cfg.get('diff_rank_seed', False) else 0)


def derive_seed(*numbers: int) -> int:
    """Return a seed that is determined by non-negative numbers, the seed of the run first. Trailing zeros change nothing."""
    (drawn,) = np.random.SeedSequence(numbers).generate_state(1)
    return int(drawn >> 1)


def set_seed(seed: int) -> None:
    """Seed Python, NumPy, and torch on the devices that are used; worker processes use the CPU.

    ``torch.manual_seed`` formats the stack for each kind of device that is not used, which takes 0.4 ms.
    """
    random.seed(seed)
    np.random.seed(seed)
    device = 'cpu' if get_worker_info() else get_device()
    if device in ('cpu', 'cuda'):
        torch.default_generator.manual_seed(seed)
        if device == 'cuda':
            torch.cuda.manual_seed_all(seed)
    else:
        torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python, NumPy and torch on the CPU for a block of code, and restore their random state after it.

    Args:
        seed: The seed, as :func:`derive_seed` returns it.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Restore the random state of Python, NumPy and torch, on the GPU too, after a block of code."""
    before = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def index_sampler(loader: DataLoader) -> Sampler:
    """Return the sampler that draws the indices of a dataloader, also where a batch sampler wraps it."""
    return getattr(loader.batch_sampler, 'sampler', loader.sampler)
