from pathlib import Path

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from mmpretrain.registry import HOOKS

from ..distillers.student_checkpoints import distillation_mismatches, mismatches
from ..errors import UserError
from ..fileio.work_dir import latest_checkpoint
from .training_setup import TrainingSetup, move_to_setup


class ResumeError(UserError, ValueError):
    """A checkpoint cannot continue this training. The message names what differs, and what to do."""


@HOOKS.register_module()
class ResumeCheckHook(Hook):
    """Refuse to resume from a checkpoint that cannot continue the training exactly.

    Checked are: that the file holds the state of the optimizer (``best_*.pth`` does not); that its entries are those of the
    model, by name and shape; that it was saved at the end of an epoch, if the training counts epochs; and that the number
    of ranks, the batch size, the number of accumulated iterations, the iterations per epoch and the teacher cache, if any,
    are the same. Checkpoints record them; a file that does not is resumed with a warning.

    With ``load_from`` and without resuming, a file may hold any part of the model. If it holds entries below ``distill.``,
    those that do not fit are reported.

    Args:
        elastic: Resume also with other ranks, batches, accumulation or iterations per epoch. The training continues at the
            same epoch, or at the same number of images if it counts iterations. The learning rate follows the present
            config at this position: scale it yourself, or by ``auto_scale_lr``. Default: False.
    """

    priority = 'VERY_HIGH'  # Before anything is restored.

    def __init__(self, elastic: bool = False) -> None:
        self.elastic = elastic

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Record what a run that resumes must have in common with this one."""
        checkpoint['meta']['training_setup'] = TrainingSetup.from_runner(runner).as_dict()
        checkpoint['meta']['teacher_cache'] = _cache_identity(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check a checkpoint that a training is about to resume or to start from.

        Raises:
            ResumeError: The training would resume, and the checkpoint does not fit.
        """
        if not isinstance(runner._train_loop, BaseLoop):
            return  # Evaluation.
        if not runner._resume and isinstance(runner, Runner):
            wrong = distillation_mismatches(runner.model, checkpoint.get('state_dict', checkpoint))
            if wrong:
                runner.logger.warning(
                    f'{loaded_file(runner)}: what only training needs does not fit, and starts from its initial values: '
                    f'{_listed(wrong)}.'
                )
        if runner._resume:
            self._check_resumed(runner, checkpoint)

    def _check_resumed(self, runner: Runner, checkpoint: dict) -> None:
        file = loaded_file(runner)
        if 'optimizer' not in checkpoint:
            raise ResumeError(
                f'--resume {file}: the file holds no state of the optimizer, as best_*.pth and published files do not, '
                'so it cannot continue a training. Resume from an epoch_*.pth or iter_*.pth, or start a new training from '
                f'these weights with load_from={str(file)!r} and without --resume'
            )
        # The shards of a FlexibleRunner's model have other shapes; its strategy checks them itself.
        wrong = mismatches(runner.model, checkpoint['state_dict']) if isinstance(runner, Runner) else []
        if wrong:
            raise ResumeError(
                f'--resume {file}: the file belongs to another model: {_listed(wrong)}. Resume with the config that it '
                f'was trained with, or start a new training from its weights with load_from={str(file)!r} and without '
                '--resume'
            )
        recorded, identity = checkpoint['meta'].get('teacher_cache'), _cache_identity(runner)
        if 'teacher_cache' in checkpoint['meta'] and recorded != identity:
            saved, present = ('a teacher cache' if one else 'the teacher itself' for one in (recorded, identity))
            raise ResumeError(
                f'--resume {file}: that run was trained with {saved}, and this one is with '
                f'{"another cache" if recorded and identity else present}, so other images and targets would follow. Resume '
                f'with the config that it was trained with, or start a new training from its weights with '
                f'load_from={str(file)!r} and without --resume'
            )
        before, now = checkpoint['meta'].get('training_setup'), TrainingSetup.from_runner(runner)
        if before is None:
            runner.logger.warning(
                f'{file} does not record the number of ranks, the batch size and the accumulated iterations, so they are '
                'not compared with those of this run. Resuming is exact only if they are the same.'
            )
        before = TrainingSetup(**before) if before is not None else None
        _check_position(file, checkpoint['meta'], before or now)
        if before is None or before == now:
            return
        if not self.elastic:
            raise ResumeError(
                f'--resume {file}: {before.differences(now)}. Resume with the same settings, or add --resume-elastic: the '
                'training then continues at the same epoch or number of images, and the learning rate follows this config'
            )
        try:
            move_to_setup(runner, checkpoint, before, now)
        except ValueError as error:
            raise ResumeError(f'--resume-elastic {file}: {before.differences(now)}. {error}') from None
        runner.logger.warning(
            f'{file}: {before.differences(now)}. The training continues at epoch {checkpoint["meta"]["epoch"]}, iteration '
            f'{checkpoint["meta"]["iter"]} of this setup.'
        )


def _cache_identity(runner: Runner) -> str | None:
    """Return the checksum of the teacher cache that the model reads, None without one."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return getattr(getattr(model, 'teacher', None), 'identity', None)


def _check_position(file: Path, meta: dict, setup: TrainingSetup) -> None:
    """Raise for a checkpoint from inside an epoch. Epoch-based loops begin with a whole one."""
    length = setup.iters_per_epoch
    if length is not None and meta['iter'] != meta['epoch'] * length:
        raise ResumeError(
            f'--resume {file}: the file was saved at iteration {meta["iter"]} after {meta["epoch"]} epochs, which is not '
            f'the end of an epoch of {length} iterations. A training that counts epochs resumes only there: save with '
            'default_hooks.checkpoint.by_epoch=True and train on the same images'
        )


def loaded_file(runner: Runner) -> Path:
    """Return the file that a runner resumes from or loads."""
    return Path(runner._load_from or latest_checkpoint(runner.work_dir) or runner.work_dir)


def _listed(wrong: list[str]) -> str:
    more = f', and {len(wrong) - 5} more' if len(wrong) > 5 else ''
    return '; '.join(wrong[:5]) + more
