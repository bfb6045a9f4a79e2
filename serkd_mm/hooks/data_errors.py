"""Shared by everything that checks the data."""

from collections.abc import Iterator

from mmengine.dataset import BaseDataset
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset

from ..errors import UserError
from .runner_models import unwrapped_model


class DataError(UserError, ValueError):
    """An image, a label or a class folder cannot be used. The message names the file or folder."""


def built_datasets(runner: Runner) -> Iterator[tuple[str, BaseDataset]]:
    """Yield the config key and the dataset of each dataloader that the runner has built."""
    for key, loader in built_loaders(runner):
        yield f'{key}.dataset', loader.dataset


def labeled_datasets(runner: Runner) -> Iterator[tuple[str, BaseDataset]]:
    """Yield those of :func:`built_datasets` whose labels are read: a training without labels reads none of its images."""
    label_free = getattr(unwrapped_model(runner), 'label_free', False)
    for key, dataset in built_datasets(runner):
        if not label_free or not key.startswith('train_'):
            yield key, dataset


def built_loaders(runner: Runner) -> Iterator[tuple[str, DataLoader]]:
    """Yield the config key of each dataloader that the runner has built, and the dataloader."""
    for key in ('train', 'val', 'test'):
        loop = getattr(runner, f'_{key}_loop')
        if hasattr(loop, 'dataloader'):  # Loops are dicts until they are needed.
            yield f'{key}_dataloader', loop.dataloader


def innermost_datasets(dataset: Dataset) -> Iterator[Dataset]:
    """Yield the datasets inside wrappers such as ``ConcatDataset`` and ``RepeatDataset``, or the dataset itself."""
    inner = getattr(dataset, 'datasets', None) or [part for part in [getattr(dataset, 'dataset', None)] if part is not None]
    for part in inner:
        yield from innermost_datasets(part)
    if not inner:
        yield dataset


def lacks(dataset: BaseDataset, *fields: str) -> bool:
    """Return whether the first image of a dataset has none of these annotations; False if the dataset cannot say."""
    return hasattr(dataset, 'get_data_info') and len(dataset) > 0 and not set(fields) & set(dataset.get_data_info(0))
