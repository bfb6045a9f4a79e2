from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS


@HOOKS.register_module()
class HistoryLengthHook(Hook):
    """Limit the history of scalars that grow with every iteration to the windows that logs are averaged over.

    mmengine keeps up to a million values of each scalar, copies them all to append one, and saves them in checkpoints. What
    is logged stays the same, and whole curves are in ``vis_data/scalars.json``. The metrics of validations are kept whole,
    as are scalars for which ``log_processor`` averages over the window ``'global'`` or over no window.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Find the longest window."""
        settings = getattr(runner.log_processor, 'custom_cfg', [])
        windows = [setting.get('window_size') for setting in settings]
        # mmengine averages the times of a validation over its batches.
        loaders = [runner.val_dataloader] if runner.val_loop is not None else []
        loaders += [runner.train_dataloader] if 'epoch' in windows else []
        self._length = max(
            getattr(runner.log_processor, 'window_size', 1),
            *(size for size in windows if isinstance(size, int)),
            *map(len, loaders),
            1,
        )
        self._whole = {
            setting['data_src'] for setting, size in zip(settings, windows, strict=True) if size in (None, 'global')
        }

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None) -> None:
        """Limit the scalars of training; mmengine drops older values when it appends the next one."""
        self._limit(runner, 'train/')

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Limit the times of a validation that is part of a training."""
        if hasattr(self, '_length'):
            self._limit(runner, 'val/time', 'val/data_time')

    def _limit(self, runner: Runner, *prefixes: str) -> None:
        for name, history in runner.message_hub.log_scalars.items():
            is_whole = not name.startswith(prefixes) or name.partition('/')[2] in self._whole
            if history.max_length > self._length and not is_whole:
                history.max_length = self._length
