from pathlib import Path

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import BaseLoop, Runner
from mmpretrain.registry import HOOKS

from ..errors import raise_on_all_ranks
from ..fileio.work_dir import checkpoint_folder, find_start, is_in, set_aside


@HOOKS.register_module()
class WorkDirCheckHook(Hook):
    """Refuse to start where a run would overwrite checkpoints, and find the checkpoint to resume from.

    mmengine starts from the beginning, and overwrites ``epoch_1.pth``, if ``resume`` is not set or ``last_checkpoint`` is
    missing. It also reads ``last_checkpoint`` as an absolute path, which is wrong in a folder that was moved or copied; this
    hook finds the file of that name in the folder.

    Args:
        overwrite: Start from the beginning although the folder holds checkpoints, which are moved to a folder
            ``overwritten_TIME`` in it; ``--overwrite`` sets it. Default: False.
    """

    priority = 'VERY_HIGH'  # After WorkDirLockHook.

    def __init__(self, overwrite: bool = False) -> None:
        self.overwrite = overwrite
        self._is_checked = False

    def before_run(self, runner: Runner) -> None:
        """Check the work folder before a training, and set the checkpoint to resume from.

        Raises:
            WorkDirError: The run would overwrite checkpoints. It is raised on all ranks.
        """
        if self._is_checked or not isinstance(runner._train_loop, BaseLoop):
            return  # An evaluation, maybe after the training.
        self._is_checked = True
        start = [None]
        with raise_on_all_ranks():
            if is_main_process():
                start = [self._find_start(runner)]
        broadcast_object_list(start)
        if runner._resume and start[0] is not None:
            runner._load_from = start[0]
        elif runner._resume:
            runner._resume = False  # mmengine would read a last_checkpoint that is empty, of versions before 0.7.

    def _find_start(self, runner: Runner) -> str | None:
        hook = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
        folder = None if hook is None else checkpoint_folder(runner.work_dir, hook.out_dir)
        start = find_start(runner.work_dir, folder, runner._resume, runner._load_from, self.overwrite)
        if self.overwrite and folder is not None and (start is None or not is_in(start, folder)):
            # Until the first checkpoint is saved, --resume must not continue the run that is overwritten.
            (Path(runner.work_dir) / 'last_checkpoint').unlink(missing_ok=True)
            moved = set_aside(runner.work_dir, folder, runner.log_dir)
            if moved is not None:
                runner.logger.warning(f'The checkpoints and logs of an earlier run are in {moved}. Remove it to save space')
        return start
