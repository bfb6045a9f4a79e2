"""Batches of the images of a cache, and the records that a teacher makes of them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from mmengine.dataset import default_collate
from torch import nn
from torch.utils.data import DataLoader, Dataset

from .errors import CacheError
from .repeatable_views import RepeatableViews
from .view_records import augmented_image_checksum, image_name

Encode = Callable[[torch.Tensor], np.ndarray]


class ChecksummedViews(Dataset):
    """Add the checksum of each augmented image to its data sample, in the process that reads it.

    Args:
        dataset: The views.
    """

    def __init__(self, dataset: RepeatableViews) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        data = self.dataset[index]
        checksum = augmented_image_checksum(data['inputs'])
        data['data_samples'].set_field(checksum, 'image_checksum', field_type='metainfo')
        return data


def load_images(dataset: RepeatableViews, batches: Sequence[Sequence[int]], num_workers: int) -> DataLoader:
    """Read given batches of images, with their checksums.

    Args:
        dataset: The views.
        batches: Indices of the images of each batch; ranges keep millions of them small.
        num_workers: Processes that read them; 0 reads them in this one.
    """
    return DataLoader(
        ChecksummedViews(dataset),
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
    )


def compute_records(data: Mapping, preprocessor: nn.Module, encode: Encode) -> tuple[np.ndarray, np.ndarray]:
    """Compute the records of a batch.

    Args:
        data: The batch, as :func:`load_images` returns it.
        preprocessor: Normalizes and mixes the images.
        encode: Computes the payloads of preprocessed images ``(B, 3, H, W)``.

    Returns:
        The checksums ``(B,)`` of the augmented images, uint32, and the payloads ``(B, bytes)``, uint8.

    Raises:
        CacheError: The teacher's output for an image cannot be stored; the message names the image.
    """
    checksums = np.array([sample.image_checksum for sample in data['data_samples']], np.uint32)
    batch = preprocessor(data, training=True)
    try:
        return checksums, encode(batch['inputs'])
    except ValueError as error:
        raise _named(error, batch, encode) from error


def _collate(images: Sequence[Mapping]) -> Mapping:
    """Make a batch of images.

    Raises:
        CacheError: They have different sizes; the message names two of them.
    """
    shapes = [tuple(image['inputs'].shape) for image in images]
    other = next((number for number, shape in enumerate(shapes) if shape != shapes[0]), None)
    if other is not None:
        names = [image_name(images[number]['data_samples']) for number in (0, other)]
        raise CacheError(
            f'{names[0]} has the shape {shapes[0]} after the pipeline, and {names[1]} has {shapes[other]}. A batch needs '
            'images of one size: add a crop or a resize to one size to the pipeline'
        )
    return default_collate(images)


def _named(error: ValueError, batch: Mapping, encode: Encode) -> ValueError:
    """The error of the first image of a batch for which it is raised, with the name of the image."""
    for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
        try:
            encode(image[None])
        except ValueError as own:
            mate = ', mixed with its mate,' if 'view_mix' in sample else ''
            return CacheError(f'{image_name(sample)}{mate} makes an output of the teacher that cannot be stored: {own}')
    return error
