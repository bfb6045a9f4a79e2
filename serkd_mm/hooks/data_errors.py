"""Shared by the hooks that check the data."""

from collections.abc import Iterator

from mmengine.dataset import BaseDataset
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ..errors import UserError


class DataError(UserError, ValueError):
    """An image or a label cannot be used. The message names the file."""


def built_datasets(runner: Runner) -> Iterator[tuple[str, BaseDataset]]:
    """Yield the config key and the dataset of each dataloader that the runner has built."""
    for key, loader in built_loaders(runner):
        yield f'{key}.dataset', loader.dataset


def built_loaders(runner: Runner) -> Iterator[tuple[str, DataLoader]]:
    """Yield the config key of each dataloader that the runner has built, and the dataloader."""
    for key in ('train', 'val', 'test'):
        loop = getattr(runner, f'_{key}_loop')
        if hasattr(loop, 'dataloader'):  # Loops are dicts until they are needed.
            yield f'{key}_dataloader', loop.dataloader
