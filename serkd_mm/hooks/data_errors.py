"""What the hooks that watch the data have in common."""

from collections.abc import Iterator

from mmengine.dataset import BaseDataset
from mmengine.runner import Runner


class DataError(ValueError):
    """An image or a label that can not be used; the message names the file."""


def datasets(runner: Runner) -> Iterator[tuple[str, BaseDataset]]:
    """The data sets that a run has built, by the config key of each."""
    for key in ('train', 'val', 'test'):
        loop = getattr(runner, f'_{key}_loop')
        if hasattr(loop, 'dataloader'):  # A dict until it is needed.
            yield f'{key}_dataloader.dataset', loop.dataloader.dataset
