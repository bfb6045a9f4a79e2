from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import IterBasedTrainLoop, Runner
from mmpretrain.registry import HOOKS

from ..config_errors import ConfigError, suggest
from ..errors import raise_on_all_ranks
from ..fileio import AtomicBackend
from ..fileio.work_dir import announce_first_checkpoint, checkpoint_folder, is_in, latest_checkpoint, withdraw_announcement


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, made safe against kills: a complete checkpoint exists at any time after the first.

    mmengine removes the oldest checkpoint before it writes the next, and writes in place. This hook writes the file
    atomically, then updates ``last_checkpoint``, and only then removes the oldest checkpoint. The best checkpoint is
    replaced in the same order. A write that fails ends all ranks, with an error that names the file.

    mmengine stores absolute paths in checkpoints, and removes the best checkpoint of the run that another one was resumed
    from. This hook removes files in the folder of its own run only. In a folder that was moved or copied, it finds the files
    of those names. A run that resumes from a file of another folder starts with no best checkpoint.

    Args:
        args: As for ``CheckpointHook``.
        kwargs: As for ``CheckpointHook``. A custom ``backend_args`` or a remote ``out_dir`` selects the file backend.
            Default: the ``'atomic'`` backend, for local disks.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.backend_args is None and self.file_client_args is None and '://' not in str(self.out_dir or ''):
            self.backend_args = {'backend': 'atomic'}

    def before_train(self, runner: Runner) -> None:
        """Find the best checkpoints of the resumed run in the folder of this run, and forget those that are not there.

        Raises:
            ConfigError: The hook counts epochs and the training iterations, so that it would save at the end only.
        """
        if self.by_epoch and self.interval > 0 and isinstance(runner.train_loop, IterBasedTrainLoop):
            raise ConfigError(
                'default_hooks.checkpoint saves by epoch, but train_cfg counts iterations, so nothing would be saved before '
                'the end. Set default_hooks.checkpoint.by_epoch=False and its interval in iterations'
            )
        folder = checkpoint_folder(runner.work_dir, self.out_dir)
        if folder is not None:
            best = [_own_best_checkpoints(runner, folder) if is_main_process() else {}]
            broadcast_object_list(best)
            _set_best_checkpoints(runner, best[0])
        super().before_train(runner)
        if is_main_process():
            announce_first_checkpoint(runner.work_dir)

    def _save_checkpoint(self, runner: Runner) -> None:
        with raise_on_all_ranks():
            super()._save_checkpoint(runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        outdated = self._add_kept_step(runner, step)
        filename = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            filename,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            AtomicBackend().put_text(self.last_ckpt, Path(runner.work_dir) / 'last_checkpoint')
            withdraw_announcement(runner.work_dir)
            if outdated is not None:
                self._remove(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(outdated)))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        unknown = [name for name in self.key_indicators if name not in (*metrics, 'auto')]
        if unknown:
            raise ConfigError(
                f'default_hooks.checkpoint.save_best={unknown[0]!r} is not a metric of val_evaluator. '
                f'{suggest(unknown[0], metrics)}'
            )
        previous = self._best_paths()
        self._set_best_paths(dict.fromkeys(previous))  # The base class then removes nothing before it saves.
        with raise_on_all_ranks():
            super()._save_best_checkpoint(runner, metrics)
        current = self._best_paths()
        self._set_best_paths({name: current.get(name) or path for name, path in {**current, **previous}.items()})
        for name, path in previous.items():
            if path and current.get(name) not in (None, path) and is_main_process():
                self._remove(path)

    def _add_kept_step(self, runner: Runner, step: int) -> int | None:
        """Record the checkpoint of ``step`` as kept, and return the step of the one that exceeds ``max_keep_ckpts``."""
        if self.max_keep_ckpts <= 0 or (self.keep_ckpt_ids and self.keep_ckpt_ids[-1] == step):
            return None
        outdated = self.keep_ckpt_ids.popleft() if len(self.keep_ckpt_ids) == self.max_keep_ckpts else None
        self.keep_ckpt_ids.append(step)
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        return outdated

    def _best_paths(self) -> dict[str, str | None]:
        """Return the best checkpoint of each metric. mmengine stores that of a single metric in another attribute."""
        if len(self.key_indicators) > 1:
            return dict(self.best_ckpt_path_dict)
        return {'': self.best_ckpt_path}

    def _set_best_paths(self, paths: dict[str, str | None]) -> None:
        if len(self.key_indicators) > 1:
            self.best_ckpt_path_dict = paths
        else:
            self.best_ckpt_path = paths['']

    def _remove(self, path: str) -> None:
        """Remove a checkpoint of this run, which is a file, or a folder with DeepSpeed."""
        if '://' not in path and not is_in(path, self.out_dir):
            return
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):
            self.file_backend.rmtree(path)


_BEST = 'best_ckpt'  # Also the beginning of its names with several metrics: best_ckpt_METRIC, with best_score_METRIC.


def _own_best_checkpoints(runner: Runner, folder: Path) -> dict[str, str]:
    """Return the best checkpoints that the resumed run has saved and that are in the folder of this run, by their names."""
    resumed = runner._load_from or latest_checkpoint(runner.work_dir)
    if not runner._resume or resumed is None or not is_in(resumed, folder):
        return {}
    saved = {name: path for name, path in runner.message_hub.runtime_info.items() if _is_best(name, path)}
    paths = {name: folder / Path(path).name for name, path in saved.items()}
    return {name: str(path) for name, path in paths.items() if path.exists()}


def _set_best_checkpoints(runner: Runner, paths: dict[str, str]) -> None:
    """Set the paths of the best checkpoints, and forget all others with their scores."""
    info = runner.message_hub.runtime_info
    for name in [name for name, path in info.items() if _is_best(name, path)]:
        if name in paths:
            info[name] = paths[name]
        else:
            runner.logger.info(f'{info.pop(name)} is not a checkpoint of this run, which will save a best one of its own')
            info.pop(name.replace(_BEST, 'best_score', 1), None)


def _is_best(name: str, path: object) -> bool:
    return name.startswith(_BEST) and isinstance(path, str)
