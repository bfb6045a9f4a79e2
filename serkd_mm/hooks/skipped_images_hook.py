import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS
from torch.utils.data import Dataset

from ..errors import raise_on_all_ranks
from .data_errors import DataError, built_datasets, innermost_datasets

_IMAGES = ('.avif', '.bmp', '.gif', '.heic', '.jfif', '.jp2', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


@HOOKS.register_module()
class SkippedImagesHook(Hook):
    """Report image files in class folders that mmpretrain's ``CustomDataset`` skips: for their extension, or as dead links.

    Its default extensions lack ``.webp``, ``.gif`` and ``.tiff``, among others, which is a warning. A link to a file that is
    missing is an error. The main process lists the folders once more when a run starts. Datasets with an annotation file are
    not affected.
    """

    def before_run(self, runner: Runner) -> None:
        """Log a warning for each folder of images in which files are skipped.

        Raises:
            DataError: A link leads to no file. It is raised on all ranks.
        """
        with raise_on_all_ranks():
            if is_main_process():
                self._check(runner)

    @staticmethod
    def _check(runner: Runner) -> None:
        checked = set()
        for key, dataset in built_datasets(runner):
            for part in innermost_datasets(dataset):
                extensions = getattr(part, 'extensions', None)
                if not extensions or part.ann_file or not part.img_prefix:  # CIFAR10 has no `img_prefix`.
                    continue
                if (part.img_prefix, extensions) not in checked:
                    checked.add((part.img_prefix, extensions))
                    _check_files(key, part)


def _check_files(key: str, dataset: Dataset) -> None:
    read = tuple(extension for extension in _IMAGES if not extension.endswith(dataset.extensions))
    counts: Counter[str] = Counter()
    example = ''
    for path, is_dead_link in _files(dataset.img_prefix):
        if is_dead_link and path.lower().endswith(tuple(dataset.extensions)):
            raise DataError(
                f'{key}: {path} is a link to {os.readlink(path)}, which does not exist. Restore it or remove the link'
            )
        suffix = Path(path).suffix.lower() if path.lower().endswith(read) else ''
        if suffix:
            counts[suffix] += 1
            example = example or path
    if counts:
        found = ' and '.join(f'{number} {suffix}' for suffix, number in sorted(counts.items()))
        print_log(
            f'{key}: {found} files in {dataset.img_prefix} are not read, for example {example}. Convert them to .png or '
            f'.jpg, or, if OpenCV reads them here, add their extension: extensions={(*sorted(dataset.extensions), *counts)}',
            logger='current',
            level=logging.WARNING,
        )


def _files(root: str) -> Iterator[tuple[str, bool]]:
    """Yield the files in the class folders, as ``CustomDataset`` lists them, and whether each is a link to none."""
    for entry in os.scandir(root):
        if entry.is_dir():
            yield from _files(entry.path)
        elif not entry.name.startswith('.'):  # CustomDataset does not list hidden files.
            yield entry.path, entry.is_symlink() and not os.path.exists(entry.path)
