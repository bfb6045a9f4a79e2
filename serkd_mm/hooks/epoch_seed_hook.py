import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.utils import set_random_seed
from mmpretrain.registry import HOOKS


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Make the random numbers of an epoch depend on the seed of the run and the number of the epoch alone.

    mmengine saves no random state, so a run that was stopped and resumed mixes and augments other images than one that was
    not. With this hook both are the same run. (Augmentation in worker processes: mmengine seeds a worker when it starts, so
    with ``persistent_workers=True`` what workers draw depends on where the run was resumed.)
    """

    priority = 'VERY_HIGH'

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed Python, NumPy and torch; ranks differ where ``randomness.diff_rank_seed`` says so, as at the start."""
        if runner.epoch == 0:
            return  # It has what the start of the run has seeded, and can not be resumed.
        (seed,) = np.random.SeedSequence((runner.seed, runner.epoch)).generate_state(1)
        set_random_seed(int(seed >> 1), diff_rank_seed=runner._randomness_cfg.get('diff_rank_seed', False))
