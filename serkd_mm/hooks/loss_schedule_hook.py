from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from mmpretrain.registry import HOOKS

from ..distillers import RelationDistiller
from .runner_models import unwrapped_model


@HOOKS.register_module()
class LossScheduleHook(Hook):
    """Move the settings of losses that are schedules, ``loss_weight=dict(type='Linear', ...)``, with the training.

    Their value is a function of the finished share of all iterations alone, so resuming is exact. It changes by iteration,
    not by epoch, and is logged: ``weight_kd`` is ``loss_kd.loss_weight``, ``ratio_dense`` is ``loss_dense.ratio``. A
    validation has the values of its moment. Without a schedule the hook does nothing.
    """

    def before_train(self, runner: Runner) -> None:
        """Find out whether anything is scheduled."""
        model = unwrapped_model(runner)
        self._model = model if isinstance(model, RelationDistiller) and model.scheduled_settings() else None
        self._move(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Set the values of this iteration, and log them."""
        if self._model is not None:
            self._move(runner)
            for name, value in self._model.scheduled_settings().items():
                runner.message_hub.update_scalar(f'train/{name}', value)

    def before_val_epoch(self, runner: Runner) -> None:
        """Set the values of this moment, which a resumed run has at the same validation."""
        if isinstance(runner._train_loop, BaseLoop):
            self._move(runner)

    def _move(self, runner: Runner) -> None:
        if getattr(self, '_model', None) is not None:
            self._model.set_progress(runner.iter / runner.max_iters)
