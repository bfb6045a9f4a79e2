from functools import partial

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.utils import set_random_seed
from mmpretrain.registry import HOOKS
from torch.utils.data import DataLoader


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seed every epoch from the seed of the run and the epoch number alone, so that resuming is bit-exact.

    mmengine does not save the random state. Without this hook, a resumed run augments and mixes other images than an
    uninterrupted one. All worker processes, persistent ones too, restart in each epoch, because they draw the
    augmentations. The first epoch keeps the seed set at the start of the run: no run resumes inside it.
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed Python, NumPy and torch. As at the start, ranks differ only with ``randomness.diff_rank_seed``."""
        if runner.epoch == 0:
            return
        (drawn,) = np.random.SeedSequence((runner.seed, runner.epoch)).generate_state(1)
        seed = int(drawn >> 1)
        set_random_seed(seed, diff_rank_seed=runner._randomness_cfg.get('diff_rank_seed', False))
        _restart_workers(runner.train_dataloader, seed)


def _restart_workers(loader: DataLoader, seed: int) -> None:
    """Start new worker processes in the next epoch, which mmengine seeds by rank, worker and ``seed``."""
    if isinstance(loader.worker_init_fn, partial) and 'seed' in loader.worker_init_fn.keywords:
        loader.worker_init_fn = partial(loader.worker_init_fn, seed=seed)
    loader._iterator = None  # Drops the persistent workers.
