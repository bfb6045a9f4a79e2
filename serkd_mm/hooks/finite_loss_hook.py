import math

from mmengine.hooks import Hook
from mmengine.runner import Runner, find_latest_checkpoint
from mmpretrain.registry import HOOKS

_ADVICE = (
    'Look for broken images, lower optim_wrapper.optimizer.lr, set optim_wrapper.clip_grad=dict(max_norm=5.0), or train '
    'without --amp; a term that is wrong by itself can be left out with model.losses.NAME=None.'
)


class NonFiniteLossError(FloatingPointError):
    """A loss, or the weights after a step, were infinite or not a number; the message says when, which, and what to do."""


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stop a run whose loss is infinite or not a number, before anything of it is saved.

    Reads the numbers that mmengine's ``RuntimeInfoHook`` has taken for the log of the same iteration: nothing more is
    fetched from the device. The step after a finite loss, and the images of another rank, can spoil the weights too: they
    are looked at when they are saved.
    """

    priority = 'HIGH'  # After RuntimeInfoHook, before an EMA is updated and a checkpoint saved.

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Look at the losses of this iteration.

        Raises:
            NonFiniteLossError: One is infinite or not a number.
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
                f'Terms: {terms}. {_what_to_do(runner)}'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Look at the weights that are about to be saved.

        Raises:
            NonFiniteLossError: One is infinite or not a number; no checkpoint is written or removed.
        """
        wrong = [name for name, value in checkpoint['state_dict'].items() if not value.isfinite().all()]
        if wrong:
            when = 'iteration {iter}, epoch {epoch}'.format(**checkpoint['meta'])
            raise NonFiniteLossError(
                f'{when}: {len(wrong)} of the weights are not finite, as {wrong[0]}. {_what_to_do(runner)}'
            )


def _what_to_do(runner: Runner) -> str:
    last = find_latest_checkpoint(runner.work_dir)
    return f'Nothing of it is saved; the last checkpoint is {last or "none yet"}, and --resume continues from it. {_ADVICE}'
