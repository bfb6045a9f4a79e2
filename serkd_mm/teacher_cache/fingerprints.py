"""What the augmented images depend on besides the seed: the files, the pipelines, and the packages that decode."""

import hashlib
import platform
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import mmcv
import mmpretrain
import numpy as np
import PIL
import torch
from PIL import features
from torch.utils.data import Dataset

from .canonical import canonical, first_difference


def data_fingerprint(dataset_config: Mapping, dataset: Dataset) -> dict[str, Any]:
    """Describe a data set and its pipelines, as the manifest of a cache stores them.

    Args:
        dataset_config: Config of the data set.
        dataset: The data set built from it.

    Returns:
        ``num_images``; ``files``, the SHA-256 of the image paths in their order, relative to the folder of the data set, so
        that it may be moved; ``pipelines``, each pipeline in the config. Images without a path count only.
    """
    prefixes = tuple(sorted(_prefixes(dataset), key=len, reverse=True))
    digest = hashlib.sha256()
    for index in range(len(dataset)):
        path = str(dataset.get_data_info(index).get('img_path') or '')
        prefix = next((prefix for prefix in prefixes if path.startswith(prefix)), '')
        digest.update(path[len(prefix) :].lstrip('/').encode(errors='surrogateescape') + b'\n')
    return {
        'num_images': len(dataset),
        'files': digest.hexdigest(),
        'pipelines': [canonical(pipeline) for pipeline in _pipelines(dataset_config)],
    }


def data_differences(stored: Mapping, present: Mapping) -> list[str]:
    """Describe what differs between two fingerprints of :func:`data_fingerprint`.

    Args:
        stored: The one in the manifest.
        present: That of the data of this run.
    """
    found = []
    cause = 'a class folder or images were added, removed or renamed, or these are other images'
    if stored['num_images'] != present['num_images']:
        found.append(f'the data set had {stored["num_images"]} images and has {present["num_images"]}: {cause}')
    elif stored['files'] != present['files']:
        found.append(f'the list of image files is another one: {cause}')
    before, now = stored['pipelines'], present['pipelines']
    if len(before) != len(now):
        found.append(f'the data set had {len(before)} pipelines and has {len(now)}')
    for number, pipelines in enumerate(zip(before, now)):  # noqa: B905 (another number is described above)
        found.append(first_difference(*pipelines, 'pipeline' if len(before) == 1 else f'pipeline {number + 1}'))
    return [difference for difference in found if difference]


def versions() -> dict[str, str]:
    """Return the versions of the packages that decode and augment images, and the machine's architecture."""
    return {
        'Pillow': PIL.__version__,
        'libjpeg of Pillow': str(features.version('jpg')),
        'OpenCV': cv2.__version__,
        'NumPy': np.__version__,
        'mmcv': mmcv.__version__,
        'mmpretrain': mmpretrain.__version__,
        'torch': str(torch.__version__),
        'architecture': platform.machine(),
    }


def version_differences(stored: Mapping[str, str]) -> list[str]:
    """Describe what differs between stored versions and those of this process."""
    return [
        f'{name} {stored.get(name, "(unknown)")} instead of {now}'
        for name, now in versions().items()
        if stored.get(name) != now
    ]


def _prefixes(dataset: Dataset) -> Iterator[str]:
    """Yield the folders of the images and of the annotations of a data set and of those inside it."""
    prefixes = getattr(dataset, 'data_prefix', None)  # `img_prefix` raises for CIFAR10, whose images have no path.
    folders = [*(prefixes.values() if isinstance(prefixes, Mapping) else ()), getattr(dataset, 'data_root', None)]
    yield from (str(folder) for folder in folders if folder)
    for part in getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]:
        if part is not None:
            yield from _prefixes(part)


def _pipelines(config: Any) -> Iterator[list]:
    """Yield each list ``pipeline`` in a config, outermost first."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            if name == 'pipeline' and isinstance(value, (list, tuple)):
                yield value
            else:
                yield from _pipelines(value)
    elif isinstance(config, (list, tuple)):
        for part in config:
            yield from _pipelines(part)
