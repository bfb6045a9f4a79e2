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

from .data_errors import built_datasets, innermost_datasets

_IMAGES = ('.avif', '.bmp', '.gif', '.heic', '.jfif', '.jp2', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')


@HOOKS.register_module()
class SkippedImagesHook(Hook):
    """Warn about image files in class folders that mmpretrain's ``CustomDataset`` skips because of their extension.

    Its default extensions lack ``.webp``, ``.gif`` and ``.tiff``, among others. The main process lists the folders once more
    when a run starts. Datasets with an annotation file are not affected.
    """

    def before_run(self, runner: Runner) -> None:
        """Log a warning for each folder of images in which files are skipped."""
        if not is_main_process():
            return
        checked = set()
        for key, dataset in built_datasets(runner):
            for part in innermost_datasets(dataset):
                extensions, root = getattr(part, 'extensions', None), getattr(part, 'img_prefix', None)
                if extensions and root and not part.ann_file and (root, extensions) not in checked:
                    checked.add((root, extensions))
                    _warn_about_skipped(key, part)


def _warn_about_skipped(key: str, dataset: Dataset) -> None:
    read = tuple(extension for extension in _IMAGES if not extension.endswith(dataset.extensions))
    counts: Counter[str] = Counter()
    example = ''
    for path in _files(dataset.img_prefix):
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


def _files(root: str) -> Iterator[str]:
    """Yield the files in the class folders, as ``CustomDataset`` lists them: without hidden files."""
    for folder, _, names in os.walk(root):
        for name in names:
            if not name.startswith('.'):
                yield os.path.join(folder, name)
