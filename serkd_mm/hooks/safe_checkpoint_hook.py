from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..fileio import AtomicBackend


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, made safe against kills: a complete checkpoint exists at any time after the first.

    mmengine removes the oldest checkpoint before it writes the next, and writes in place. This hook writes the file
    atomically, then updates ``last_checkpoint``, and only then removes the oldest checkpoint. The best checkpoint is
    replaced in the same order.

    Args:
        args: As for ``CheckpointHook``.
        kwargs: As for ``CheckpointHook``. A custom ``backend_args`` or a remote ``out_dir`` selects the file backend.
            Default: the ``'atomic'`` backend, for local disks.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.backend_args is None and self.file_client_args is None and '://' not in str(self.out_dir or ''):
            self.backend_args = {'backend': 'atomic'}

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
            if outdated is not None:
                self._remove(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(outdated)))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        previous = self._best_paths()
        self._set_best_paths(dict.fromkeys(previous))  # The base class then removes nothing before it saves.
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
        """Remove a checkpoint, which is a file, or a folder with DeepSpeed."""
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):
            self.file_backend.rmtree(path)
