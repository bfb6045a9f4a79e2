import math

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..errors import UserError
from ..fileio.work_dir import latest_checkpoint

_ADVICE = (
    'Look for broken images, lower optim_wrapper.optimizer.lr, set optim_wrapper.clip_grad=dict(max_norm=5.0), or train '
    'without --amp. If a single loss causes it, remove that loss with model.losses.NAME=None.'
)


class NonFiniteLossError(UserError, FloatingPointError):
    """A loss, or a saved value, is infinite or NaN. The message says when, which one, and what to do."""


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop a run whose loss is infinite or NaN, before a checkpoint of it is saved.

    The hook reads the values that mmengine's ``RuntimeInfoHook`` logs in the same iteration, so it transfers nothing more
    from the device. What becomes non-finite while the loss is finite is found by :class:`FiniteStateHook`.
    """

    priority = 'HIGH'  # After RuntimeInfoHook; before an EMA is updated and before a checkpoint is saved.

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Check the losses of this iteration.

        Raises:
            NonFiniteLossError: A loss is infinite or NaN.
        """
        losses = {
            name.removeprefix('train/'): runner.message_hub.get_scalar(name).current()
            for name in runner.message_hub.log_scalars
            if name.startswith('train/') and 'loss' in name
        }
        wrong = [name for name, value in losses.items() if not math.isfinite(value)]
        if wrong:
            terms = ', '.join(f'{name}={value:.4g}' for name, value in losses.items())
            raise NonFiniteLossError(
                f'iteration {runner.iter + 1}, epoch {runner.epoch + 1}: {", ".join(wrong)} is not finite. '
                f'Terms: {terms}. {advice(runner)}'
            )


def advice(runner: Runner) -> str:
    """Return what to do about non-finite values, and which checkpoint continues."""
    last = latest_checkpoint(runner.work_dir)
    resume = f'--resume continues from the last checkpoint, {last}' if last else 'There is no earlier checkpoint'
    return f'This state is not saved. {resume}. {_ADVICE}'
