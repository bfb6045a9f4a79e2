from pathlib import Path
from typing import Any

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.runner.base_loop import BaseLoop
from mmpretrain.registry import HOOKS

from .resume_check_hook import loaded_file


@HOOKS.register_module()
class ResumeValidationHook(Hook):
    """Validate the resumed state first, where the schedule of validations asks for it.

    A checkpoint is saved before the validation of its epoch. A run that is killed during that validation, or later, resumes
    from it, and the best checkpoint and the logged metrics of the epoch would be missing. If the validation finds a new best
    state, the checkpoint is saved again. It records this, and the validation is not repeated.
    """

    priority = 'LOWEST'  # The hook that saves the best checkpoint prepares itself before.

    def __init__(self) -> None:
        self._validated_iter = None
        self._is_validated = True

    def before_val_epoch(self, runner: Runner) -> None:
        """Remember the iteration: what is saved at it from now on is saved at the end of its validation."""
        if isinstance(runner._train_loop, BaseLoop):
            self._validated_iter = runner.iter

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Record whether this state has been validated."""
        checkpoint['meta']['validated'] = checkpoint['meta'].get('iter') == self._validated_iter

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Read whether the resumed state has been validated."""
        self._is_validated = not runner._resume or checkpoint.get('meta', {}).get('validated', False)

    def before_train(self, runner: Runner) -> None:
        """Validate the resumed state, if that is due and has not been done."""
        if not self._is_validated and _is_due(runner):
            _continue_saving(runner)
            runner.logger.info(f'Validating the resumed state of epoch {runner.epoch}, iteration {runner.iter} first.')
            runner.val_loop.run()


def _continue_saving(runner: Runner) -> None:
    """Let the hook that saves checkpoints save the resumed one again if it is the best."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.last_ckpt is None:
            name = hook.filename_tmpl.format(runner.epoch if hook.by_epoch else runner.iter)
            path = hook.file_backend.join_path(hook.out_dir, name)
            if Path(path).exists() and Path(path).samefile(loaded_file(runner)):
                hook.last_ckpt = path


def _is_due(runner: Runner) -> bool:
    """Apply the rule that mmengine's loops apply after each epoch or iteration."""
    loop: Any = runner.train_loop
    if runner.val_loop is None or not isinstance(loop, (EpochBasedTrainLoop, IterBasedTrainLoop)):
        return False
    done, end = (loop.iter, loop.max_iters) if isinstance(loop, IterBasedTrainLoop) else (loop.epoch, loop.max_epochs)
    loop._decide_current_val_interval()
    return done > 0 and done >= loop.val_begin and (done % loop.val_interval == 0 or done == end)
