import logging

from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import IterBasedTrainLoop, Runner
from mmpretrain.registry import HOOKS
from torch import nn

from ..config_errors import ConfigError


@HOOKS.register_module()
class AccumulationHook(Hook):
    """Take the optimizer's step at the end of every epoch, so that no checkpoint lies between two steps.

    Accumulated gradients are not saved. mmengine lets a group of ``accumulative_counts`` iterations continue in the next
    epoch; a run that resumes there loses the gradients of the first part. With this hook the last group of an epoch may be
    smaller, and its losses are divided by its own size. In iteration-based trainings checkpoints must be saved between
    groups, and validations too if they may save a best one.
    """

    def before_run(self, runner: Runner) -> None:
        """Check the interval of checkpoints in an iteration-based training.

        Raises:
            ConfigError: A checkpoint would be saved with accumulated gradients.
        """
        loop = getattr(runner, '_train_loop', None)
        if not isinstance(loop, IterBasedTrainLoop):
            runner.logger.addFilter(_is_true)
            return
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and not hook.by_epoch and hook.interval > 0:
                positions = {'default_hooks.checkpoint.interval': hook.interval, 'save_begin': hook.save_begin}
                if hook.save_best and runner.val_loop is not None:  # A best state is saved again after its validation.
                    positions['train_cfg.val_interval'] = loop.val_interval
                for wrapper in single_wrappers(runner.optim_wrapper):
                    _check_positions(positions, accumulative_counts(wrapper))

    def before_train_epoch(self, runner: Runner) -> None:
        """Let a new group of iterations begin with the epoch, and the last one end with it."""
        runner.logger.removeFilter(_is_true)
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            return
        for wrapper in single_wrappers(runner.optim_wrapper):
            if accumulative_counts(wrapper) > 1:
                # Without the model, whose BatchNorm layers mmengine would warn about in each epoch.
                wrapper.initialize_count_status(nn.Identity(), 0, len(runner.train_dataloader))


def _check_positions(positions: dict[str, int], size: int) -> None:
    for key, value in positions.items():
        if value % size:
            raise ConfigError(
                f'{key}={value} must be a multiple of optim_wrapper.accumulative_counts={size}: a checkpoint between two '
                'steps of the optimizer does not hold the accumulated gradients'
            )


def _is_true(record: logging.LogRecord) -> bool:
    """Drop mmengine's warning of lost gradients when a run resumes: with this hook no epoch ends with any."""
    return not record.getMessage().startswith('Resumed iteration number is not divisible')


def single_wrappers(wrapper: OptimWrapper) -> list[OptimWrapper]:
    """Return the wrappers of single optimizers."""
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


def accumulative_counts(wrapper: OptimWrapper) -> int:
    """Return over how many iterations a wrapper accumulates gradients."""
    return getattr(wrapper, '_accumulative_counts', 1)
