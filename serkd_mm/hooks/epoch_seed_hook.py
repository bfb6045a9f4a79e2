from functools import partial

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.utils import set_random_seed
from mmpretrain.registry import HOOKS
from torch.utils.data import DataLoader


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Make the random numbers of an epoch depend on the seed of the run and the number of the epoch alone.

    mmengine saves no random state, so a run that was stopped and resumed mixes and augments other images than one that was
    not. With this hook both are the same run. Worker processes are started anew for each epoch, persistent ones too, because
    they draw the augmentation. The first epoch has what the start of the run has seeded: nothing resumes inside it.
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed Python, NumPy and torch; ranks differ where ``randomness.diff_rank_seed`` says so, as at the start."""
        if runner.epoch == 0:
            return
        (drawn,) = np.random.SeedSequence((runner.seed, runner.epoch)).generate_state(1)
        seed = int(drawn >> 1)
        set_random_seed(seed, diff_rank_seed=runner._randomness_cfg.get('diff_rank_seed', False))
        _restart_workers(runner.train_dataloader, seed)


def _restart_workers(loader: DataLoader, seed: int) -> None:
    """Let the next epoch begin with new worker processes, which mmengine's function seeds by rank, worker and ``seed``."""
    if isinstance(loader.worker_init_fn, partial) and 'seed' in loader.worker_init_fn.keywords:
        loader.worker_init_fn = partial(loader.worker_init_fn, seed=seed)
    loader._iterator = None  # What keeps persistent workers.
