from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from ..fileio import AtomicBackend


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook`` for runs that may be killed at any moment: a complete checkpoint can always be resumed.

    mmengine removes the checkpoint that is one too many before it writes the next, and writes in place. Here a file is
    written whole or not at all, then ``last_checkpoint`` names it, and only then is an older one removed. The same holds
    for the best checkpoint.

    Args:
        settings: As for ``CheckpointHook``. With a ``backend_args`` of one's own (for a store that is no local disk) that
            backend writes.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        if self.backend_args is None and self.file_client_args is None and '://' not in str(self.out_dir or ''):
            self.backend_args = {'backend': 'atomic'}

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        outdated = self._keep(runner, step)
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
        self._set_best_paths(dict.fromkeys(previous))  # So that nothing is removed before the next is there.
        super()._save_best_checkpoint(runner, metrics)
        found = self._best_paths()
        self._set_best_paths({name: found.get(name) or path for name, path in {**found, **previous}.items()})
        for name, path in previous.items():
            if path and found.get(name) not in (None, path) and is_main_process():
                self._remove(path)

    def _keep(self, runner: Runner, step: int) -> int | None:
        """Note the checkpoint of ``step`` among those that are kept; the step of the one that is too many by it."""
        if self.max_keep_ckpts <= 0 or (self.keep_ckpt_ids and self.keep_ckpt_ids[-1] == step):
            return None
        outdated = self.keep_ckpt_ids.popleft() if len(self.keep_ckpt_ids) == self.max_keep_ckpts else None
        self.keep_ckpt_ids.append(step)
        runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        return outdated

    def _best_paths(self) -> dict[str, str | None]:
        """The best checkpoint by the name of its metric; mmengine keeps the only one apart."""
        if len(self.key_indicators) > 1:
            return dict(self.best_ckpt_path_dict)
        return {'': self.best_ckpt_path}

    def _set_best_paths(self, paths: dict[str, str | None]) -> None:
        if len(self.key_indicators) > 1:
            self.best_ckpt_path_dict = paths
        else:
            self.best_ckpt_path = paths['']

    def _remove(self, path: str) -> None:
        """Remove a checkpoint; those of DeepSpeed are folders."""
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):
            self.file_backend.rmtree(path)
