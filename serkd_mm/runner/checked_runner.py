import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from mmengine.runner import Runner
from mmpretrain.datasets import CustomDataset
from mmpretrain.datasets.custom import get_samples
from mmpretrain.registry import DATASETS, RUNNERS
from torch.utils.data import DataLoader

from ..hooks.batch_size_hook import check_number_of_batches
from ..hooks.class_names_hook import check_class_folders
from ..hooks.data_errors import DataError, innermost_datasets
from .annotation_files import check_byte_order_mark, check_lines


@RUNNERS.register_module()
class CheckedRunner(Runner):
    """mmengine's ``Runner``, which reports data that cannot be read by the file and the line, or the folder.

    Hooks see a dataset only once it is built. The errors of building one, of an annotation file with a blank line for
    example, name no file. ``tools/train.py`` and ``tools/test.py`` use this runner.
    """

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False) -> DataLoader:
        """Build a dataloader as ``Runner`` does.

        Args:
            dataloader: A dataloader, or the config of one.
            seed: Seed of the sampler. Default: None.
            diff_rank_seed: Whether ranks have different seeds. Default: False.

        Raises:
            DataError: A line of an annotation file or a class folder cannot be used, there are no images or none in class
                folders, or there is no batch.
        """
        config = dataloader.get('dataset') if isinstance(dataloader, Mapping) else None
        try:
            loader = Runner.build_dataloader(dataloader, seed=seed, diff_rank_seed=diff_rank_seed)
        except (AssertionError, RuntimeError, ValueError, UnicodeDecodeError):
            for part in _unread_datasets(config):
                check_lines(part)
                _check_images(part)
                _check_class_count(part)
            raise
        for part in innermost_datasets(loader.dataset):
            if isinstance(part, CustomDataset):
                check_byte_order_mark(part)
        check_number_of_batches(loader, f'the dataloader of {type(loader.dataset).__name__}')
        return loader


def _unread_datasets(config: Any) -> Iterator[CustomDataset]:
    """Build each ``CustomDataset`` of a config, also inside wrappers, without reading it; none that reads other files."""
    if isinstance(config, (list, tuple)):
        for part in config:
            yield from _unread_datasets(part)
    if not isinstance(config, Mapping):
        return
    cls = DATASETS.get(config['type']) if isinstance(config.get('type'), str) else config.get('type')
    if isinstance(cls, type) and issubclass(cls, CustomDataset) and cls.load_data_list is CustomDataset.load_data_list:
        with suppress(Exception):  # The error of the real dataset is raised.
            yield DATASETS.build({**config, 'lazy_init': True})
        return
    for name in ('dataset', 'datasets'):
        yield from _unread_datasets(config.get(name))


def _check_images(dataset: CustomDataset) -> None:
    """Report a folder without images, or without any in class folders if labels are read."""
    root = dataset.img_prefix
    if dataset.ann_file or not os.path.isdir(root):
        return
    images, _ = get_samples(root, None, dataset.is_valid_file)
    if not images:
        raise DataError(f'{root}: there are no images in it or in its folders ({", ".join(sorted(dataset.extensions))})')
    if dataset.with_label and not any(os.path.dirname(image) for image in images):
        raise DataError(
            f'{root}: the images lie directly in the folder. {type(dataset).__name__} needs a folder for each class, or, to '
            'train without labels, with_label=False and model.losses.loss_cls=None'
        )


def _check_class_count(dataset: CustomDataset) -> None:
    """Report class folders whose number is not that of the dataset's ``classes``."""
    root, classes = dataset.img_prefix, dataset.CLASSES
    if dataset.ann_file or not classes or not os.path.isdir(root):
        return
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    check_class_folders(dataset, type(dataset).__name__, folders)
    if len(folders) != len(classes):
        unknown = [name for name in folders if name not in classes]
        absent = [name for name in classes if name not in folders]
        named = f': {", ".join(map(repr, unknown[:5]))} not in `classes`' if 0 < len(unknown) < len(folders) else ''
        named += f': no folder for {", ".join(map(repr, absent[:5]))}' if 0 < len(absent) < len(classes) else ''
        raise DataError(
            f'{root} has {len(folders)} class folders, but `classes` of {type(dataset).__name__} has {len(classes)} '
            f'names{named}. Add or remove folders'
        )
