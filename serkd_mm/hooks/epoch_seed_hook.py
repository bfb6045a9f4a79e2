from functools import partial

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from mmpretrain.registry import HOOKS
from torch.utils.data import DataLoader

from ..seeding import derive_seed, index_sampler, run_seed, set_seed

_VALIDATION = 3  # Keeps its numbers apart from those of epochs and iterations.


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seed every epoch from the seed of the run, the epoch number and the rank, so that resuming is bit-exact.

    mmengine does not save the random state. Without this hook, a resumed run augments and mixes other images than an
    uninterrupted one, and every rank draws the same Mixup and CutMix. All worker processes, persistent ones too, restart in
    each epoch, because they draw the augmentations. On rank 0 the first epoch keeps the seed set at the start of the run: no
    run resumes inside it. The seed of the sampler, which all ranks share, is saved in checkpoints, because a run without
    ``randomness.seed`` draws another one at each start. A validation has a seed of its own.
    """

    priority = 'VERY_HIGH'

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save the seed of the sampler, if it has one."""
        seed = getattr(index_sampler(runner.train_dataloader), 'seed', None)
        if isinstance(seed, int):
            checkpoint['meta']['sampler_seed'] = seed

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Restore the seed of the sampler when the run resumes."""
        if runner._resume and 'sampler_seed' in checkpoint.get('meta', {}):
            sampler = index_sampler(runner.train_dataloader)
            if hasattr(sampler, 'seed'):
                sampler.seed = checkpoint['meta']['sampler_seed']

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed Python, NumPy and torch by rank, and the worker processes by rank and number."""
        if runner.epoch == 0 and get_rank() == 0:
            return
        seed = run_seed(runner)
        set_seed(derive_seed(seed, runner.epoch, get_rank()))
        if runner.epoch:
            _restart_workers(runner.train_dataloader, derive_seed(seed, runner.epoch))

    def before_val_epoch(self, runner: Runner) -> None:
        """Seed a validation that is part of a training: one that is repeated draws the same numbers."""
        if isinstance(runner._train_loop, BaseLoop):
            set_seed(derive_seed(run_seed(runner), runner.iter, get_rank(), _VALIDATION))


def _restart_workers(loader: DataLoader, seed: int) -> None:
    """Start new worker processes in the next epoch, which mmengine seeds by rank, worker and ``seed``."""
    if isinstance(loader.worker_init_fn, partial) and 'seed' in loader.worker_init_fn.keywords:
        loader.worker_init_fn = partial(loader.worker_init_fn, seed=seed)
    loader._iterator = None  # Drops the persistent workers.
