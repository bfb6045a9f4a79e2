from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import BaseLoop, Runner
from mmpretrain.registry import HOOKS

from ..errors import raise_on_all_ranks
from ..fileio.atomic_backend import remove_partial_files
from ..fileio.run_lock import RunLock
from ..fileio.work_dir import checkpoint_folder

LOCK_FILE = 'run.lock'


@HOOKS.register_module()
class WorkDirLockHook(Hook):
    """Refuse a second run in the same work folder while the first one lives.

    The ranks of a run may survive its launcher, and a job may be requeued while the old one is still writing. The first rank
    holds ``run.lock`` in the work folder and renews it from a thread. The lock of a run that was killed is taken over: at
    once on the same machine, elsewhere when its heartbeat has stopped. A run that has lost its lock, because it was
    suspended, writes no checkpoint any more.

    Args:
        interval: Seconds between two heartbeats. Default: 10.
        stale_after: Seconds without a heartbeat, after which the lock of another machine is taken over. Default: 60.
    """

    priority = 'HIGHEST'  # Before anything reads or writes the work folder, and before a checkpoint is written.

    def __init__(self, interval: float = 10.0, stale_after: float = 60.0) -> None:
        self.interval, self.stale_after = interval, stale_after
        self._lock: RunLock | None = None

    def before_run(self, runner: Runner) -> None:
        """Lock the work folder for a training, and remove the temporary files of processes that were killed.

        Raises:
            WorkDirError: Another run is using the folder. It is raised on all ranks.
        """
        if not isinstance(runner._train_loop, BaseLoop):
            return  # An evaluation.
        with raise_on_all_ranks():
            if is_main_process() and self._lock is None:
                lock = RunLock(Path(runner.work_dir) / LOCK_FILE, self.interval, self.stale_after)
                lock.acquire(runner.logger.warning)
                self._lock = lock
                self._remove_partial_files(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check the lock before each checkpoint.

        Raises:
            WorkDirError: Another run has taken the lock over. Nothing is written.
        """
        if self._lock is not None:
            self._lock.check()

    def after_run(self, runner: Runner) -> None:
        """Release the lock. After an error, it is released when the process ends."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @staticmethod
    def _remove_partial_files(runner: Runner) -> None:
        folders = {Path(runner.work_dir)}
        folders |= {
            checkpoint_folder(runner.work_dir, hook.out_dir) for hook in runner.hooks if isinstance(hook, CheckpointHook)
        }
        for folder in folders - {None}:
            for file in remove_partial_files(folder):
                runner.logger.warning(f'Removed {file}, which a killed run has not completed')
