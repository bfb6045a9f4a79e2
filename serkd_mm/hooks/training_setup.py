"""What decides how many images a step of the optimizer sees, and the move of a checkpoint to another such setup."""

import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields

from mmengine.dist import get_world_size
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import IterBasedTrainLoop, Runner

from .accumulation_hook import accumulative_counts, single_wrappers


@dataclass(frozen=True)
class TrainingSetup:
    """What two runs must have in common, so that their iterations mean the same.

    Attributes:
        num_ranks: Number of processes.
        batch_size: Images per rank and iteration; None if a custom batch sampler does not say.
        accumulative_counts: Iterations per step of the optimizer.
        iters_per_epoch: Length of an epoch; None if the training counts iterations.
    """

    num_ranks: int
    batch_size: int | None
    accumulative_counts: int
    iters_per_epoch: int | None

    @classmethod
    def from_runner(cls, runner: Runner) -> 'TrainingSetup':
        """Read the setup of a runner whose training loop is built."""
        loader = runner.train_dataloader
        return cls(
            num_ranks=get_world_size(),
            batch_size=getattr(loader.batch_sampler, 'batch_size', loader.batch_size),
            accumulative_counts=max(map(accumulative_counts, single_wrappers(runner.optim_wrapper))),
            iters_per_epoch=None if isinstance(runner.train_loop, IterBasedTrainLoop) else len(loader),
        )

    def as_dict(self) -> dict[str, int | None]:
        """Return plain values, which a checkpoint records."""
        return asdict(self)

    def differences(self, now: 'TrainingSetup') -> str:
        """Describe what differs from the setup of the present run, with both numbers."""
        spoken = {
            'num_ranks': 'ranks (processes)',
            'batch_size': 'images per rank (train_dataloader.batch_size)',
            'accumulative_counts': 'accumulated iterations (optim_wrapper.accumulative_counts)',
            'iters_per_epoch': 'iterations per epoch',
        }
        return 'the checkpoint and this run differ: ' + ', '.join(
            f'{getattr(self, field.name)} and {getattr(now, field.name)} {spoken[field.name]}'
            for field in fields(self)
            if getattr(self, field.name) != getattr(now, field.name)
        )


def move_to_setup(runner: Runner, checkpoint: dict, before: TrainingSetup, now: TrainingSetup) -> None:
    """Rewrite position, schedules and learning rates of a checkpoint, in place, for the setup of the present run.

    The new schedules are stepped from the start to the position, as training steps them.

    Args:
        runner: The runner, which has built its optimizer and schedules, and has not resumed.
        checkpoint: The checkpoint.
        before: The setup that the checkpoint was saved in.
        now: The setup of the runner.

    Raises:
        ValueError: The position or a schedule cannot be moved.
    """
    if isinstance(runner.optim_wrapper, OptimWrapperDict) or not isinstance(runner.optim_wrapper, OptimWrapper):
        raise ValueError('Only trainings with a single OptimWrapper can continue in another setup')
    if 'param_schedulers' not in checkpoint and runner.param_schedulers:
        raise ValueError('The file holds no schedules')
    schedulers = list(runner.param_schedulers or ())
    if any(getattr(scheduler, 'need_val_args', False) for scheduler in schedulers):
        raise ValueError('A schedule that depends on validation results cannot be moved to another position')
    meta = checkpoint['meta']
    meta['iter'] = _moved_iter(meta, before, now)
    if now.iters_per_epoch is None:
        info = checkpoint.get('message_hub', {}).get('runtime_info', {})
        _check_length(info.get('max_iters'), runner.max_iters, before, now)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # torch expects a step of the optimizer before one of a schedule.
        for by_epoch in _steps(meta, now):
            for scheduler in schedulers:
                if scheduler.by_epoch == by_epoch:
                    scheduler.step()
    checkpoint['param_schedulers'] = [scheduler.state_dict() for scheduler in schedulers]
    _copy_scheduled_values(runner.optim_wrapper, checkpoint['optimizer'], {'lr', *(s.param_name for s in schedulers)})


def _moved_iter(meta: dict, before: TrainingSetup, now: TrainingSetup) -> int:
    """The iteration of the present setup that has seen as many epochs, or as many images."""
    if (before.iters_per_epoch is None) != (now.iters_per_epoch is None):
        raise ValueError('One training counts epochs and the other one iterations')
    if now.iters_per_epoch is not None:
        return meta['epoch'] * now.iters_per_epoch
    if None in (before.batch_size, now.batch_size):
        raise ValueError('The number of images per batch is not known')
    seen, images = meta['iter'] * before.num_ranks * before.batch_size, now.num_ranks * now.batch_size
    if seen % (images * now.accumulative_counts):
        raise ValueError(
            f'{seen} images have been seen, which is no multiple of the {images * now.accumulative_counts} that a step of '
            'the optimizer sees now. Choose another batch size or another checkpoint'
        )
    return seen // images


def _check_length(max_iters: int | None, present: int, before: TrainingSetup, now: TrainingSetup) -> None:
    """Refuse a training that counts iterations if its config was left as it was for batches of another size."""
    images, images_now = before.num_ranks * before.batch_size, now.num_ranks * now.batch_size
    if max_iters is None or images == images_now or present * images_now == max_iters * images:
        return
    raise ValueError(
        f'The run that saved it was to see {max_iters * images} images, and train_cfg.max_iters={present} are '
        f'{present * images_now}. Set train_cfg.max_iters={round(max_iters * images / images_now)}, and multiply all other '
        'numbers of iterations (param_scheduler, train_cfg.val_interval, default_hooks.checkpoint.interval) by '
        f'{images / images_now:g}'
    )


def _steps(meta: dict, setup: TrainingSetup) -> Iterator[bool]:
    """Yield for each step of the schedules up to a position whether it is that of an epoch or of an iteration."""
    for number in range(1, meta['iter'] + 1):
        yield False
        if setup.iters_per_epoch and number % setup.iters_per_epoch == 0:
            yield True


def _copy_scheduled_values(wrapper: OptimWrapper, state: dict, names: set[str]) -> None:
    """Write the scheduled values of the optimizer's groups into its saved state."""
    saved = [*state['param_groups'], *([state['base_param_settings']] if 'base_param_settings' in state else [])]
    for group, present in zip(saved, wrapper.param_groups, strict=True):
        for name in names:
            group.update({key: present[key] for key in (name, f'initial_{name}') if key in present})
