"""Fit the bases of stored tokens to some images of the first view."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from mmpretrain.structures import DataSample
from torch import nn

from ..teacher_cache.errors import CacheError
from ..teacher_cache.image_batches import load_images
from ..teacher_cache.repeatable_views import RepeatableViews
from ..teacher_cache.token_basis import fit_basis
from ..teacher_cache.view_records import image_name
from .teacher_encoder import TeacherEncoder

NUM_IMAGES = 256
_HELD_OUT = 4  # One of so many images measures the error.


def spread_images(dataset: RepeatableViews, count: int = NUM_IMAGES) -> list[int]:
    """Return indices of images spread evenly over the first view, mates together; all images if there are fewer.

    Args:
        dataset: The views.
        count: How many images. Default: 256.
    """
    size, groups = dataset.group_size, dataset.num_positions // dataset.group_size
    chosen = (
        range(groups) if groups * size <= count else [number * groups * size // count for number in range(count // size)]
    )
    return [group * size + part for group in chosen for part in range(size)]


def fit_bases(
    folder: Path,
    encoder: TeacherEncoder,
    ranks: Mapping[int, int],
    dataset: RepeatableViews,
    preprocessor: nn.Module,
    batch_size: int,
    num_workers: int,
) -> dict[int, dict]:
    """Fit a basis for each output that needs one, and save them in the folder of the cache.

    Args:
        folder: The folder.
        encoder: The teacher and its outputs.
        ranks: Number of directions by number of the output.
        dataset: The views.
        preprocessor: Normalizes and mixes the images.
        batch_size: Images of a batch, even if images are mixed.
        num_workers: Processes that read images.

    Returns:
        Settings of a ``BasisFormat`` by number of the output, with ``relative_error``, the squared error as a share of the
        variance of the tokens, and ``mean_squared_error``, both of images that the basis was not fitted to.

    Raises:
        CacheError: The tokens of an image are not finite; the message names it.
    """
    tokens = _tokens_of(encoder, list(ranks), dataset, preprocessor, batch_size, num_workers)
    found = {}
    for number, rank in ranks.items():
        held_out = _held_out(len(tokens[number]), dataset.group_size)
        fitted, measured = tokens[number][~held_out | held_out.all()], tokens[number][held_out]
        basis = fit_basis(fitted.flatten(0, 1), rank).save(Path(folder) / f'basis_{number}.npz')
        found[number] = {
            'type': 'BasisFormat',
            'shape': list(fitted.shape[1:]),
            'basis': f'basis_{number}.npz',
            'rank': rank,
            'sha256': basis.sha256,
            'relative_error': basis.relative_error(measured.flatten(0, 1)),
            'mean_squared_error': basis.mean_squared_error(measured.flatten(0, 1)),
        }
    return found


def _tokens_of(encoder, numbers: Iterable[int], dataset, preprocessor, batch_size, num_workers) -> dict[int, torch.Tensor]:
    """Compute outputs ``(images, L, C)`` for the images that are spread over the first view."""
    images = spread_images(dataset)
    batches = [images[first : first + batch_size] for first in range(0, len(images), batch_size)]
    parts: dict[int, list[torch.Tensor]] = {number: [] for number in numbers}
    for data in load_images(dataset, batches, num_workers):
        computed = encoder.compute(preprocessor(data, training=True)['inputs'])
        for number, values in parts.items():
            tokens = computed[number][0].float().cpu()
            _check_finite(tokens, data['data_samples'], encoder.outputs[number].tap)
            values.append(tokens)
    return {number: torch.cat(values) for number, values in parts.items()}


def _check_finite(tokens: torch.Tensor, samples: Sequence[DataSample], tap: str) -> None:
    for image, sample in zip(tokens, samples, strict=True):
        if not image.isfinite().all():
            raise CacheError(
                f"{image_name(sample)}: the teacher's tokens at {tap} are not finite: they hold NaN or infinity. Run the "
                'teacher in float32, or use another checkpoint'
            )


def _held_out(num_images: int, group_size: int) -> torch.Tensor:
    """Mask of the images that measure the error; mates are on the same side. All of a single group."""
    groups = torch.arange(num_images) // group_size
    return groups % _HELD_OUT == min(_HELD_OUT - 1, int(groups[-1]))
