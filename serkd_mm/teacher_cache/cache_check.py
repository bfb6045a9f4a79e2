"""Recompute some records of a cache, and compare them with those that it holds."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from torch import nn

from ..errors import raise_on_all_ranks
from .formats import BasisFormat, RecordFormat, TopKFormat, TriangleFormat
from .image_batches import Encode, compute_records, load_images
from .record_files import TeacherCache
from .repeatable_views import RepeatableViews
from .view_records import image_name

# Largest difference that rounding explains, as a share of the norm of an output: with another batch size, or on another
# machine, where TF32 may be on; and where the teacher computes in half precision, or int8 holds the values.
TOLERANCE, COARSE_TOLERANCE = 5e-3, 5e-2


@dataclass
class CheckResult:
    """What the comparison found.

    Attributes:
        num_records: How many records were compared.
        largest: Largest relative difference of each output.
        tolerances: The difference of each output that rounding explains.
        problems: A line for each record that is another one.
    """

    num_records: int
    largest: list[float]
    tolerances: list[float]
    problems: list[str] = field(default_factory=list)


def choose_records(dataset: RepeatableViews, count: int, seed: int) -> list[int]:
    """Choose indices of images, spread evenly over the views, in order; images that are mixed in pairs.

    Args:
        dataset: The views.
        count: How many; rounded up to pairs, and at most all.
        seed: Seed of the choice.
    """
    size, groups = dataset.group_size, dataset.num_positions // dataset.group_size
    count = min(-(-count // size), groups * dataset.num_views)
    views = Counter(number * dataset.num_views // count for number in range(count))
    rng = np.random.default_rng(seed)
    chosen = []
    for view, number in views.items():
        drawn = np.sort(rng.choice(groups, number, replace=False))
        chosen += [view * dataset.num_positions + int(group) * size + part for group in drawn for part in range(size)]
    return chosen


def check_records(
    cache: TeacherCache,
    dataset: RepeatableViews,
    preprocessor: nn.Module,
    encode: Encode,
    indices: Sequence[int],
    batch_size: int,
    num_workers: int,
) -> CheckResult:
    """Recompute records and compare them; to be called on every rank, which share the work.

    Args:
        cache: The cache.
        dataset: The views, without a cache.
        preprocessor: Normalizes and mixes the images, on the device of the teacher.
        encode: Computes the payloads of preprocessed images.
        indices: Indices of the images, see :func:`choose_records`.
        batch_size: Images of a batch, even if images are mixed.
        num_workers: Processes that read the images of a rank.

    Returns:
        The result of all ranks, on every rank.
    """
    tolerances = [_tolerance(cache, form) for form in cache.formats]
    result = CheckResult(0, [0.0] * len(tolerances), tolerances)
    batches = [indices[first : first + batch_size] for first in range(0, len(indices), batch_size)]
    own = batches[get_rank() :: get_world_size()]
    with raise_on_all_ranks():
        for batch, data in zip(own, load_images(dataset, own, num_workers), strict=True):
            checksums, payloads = compute_records(data, preprocessor, encode)
            names = [image_name(sample) for sample in data['data_samples']]
            _compare(cache, batch, names, checksums, payloads, result)
    parts = all_gather_object(result)
    return CheckResult(
        sum(part.num_records for part in parts),
        [max(values) for values in zip(*(part.largest for part in parts), strict=True)],
        tolerances,
        [problem for part in parts for problem in part.problems],
    )


def relative_difference(form: RecordFormat, stored: torch.Tensor, computed: torch.Tensor) -> torch.Tensor:
    """Return the norm of the difference of two outputs ``(B,)``, as a share of the norm of the stored ones.

    Of relations the distances are compared, as shares of their mean: rounding may rotate or mirror the tokens. Of the top k
    logits the probabilities are compared.

    Args:
        form: The format of the output.
        stored: The stored bytes ``(B, num_bytes)``.
        computed: The recomputed bytes ``(B, num_bytes)``.
    """
    values = [form.decode(side).double() for side in (stored, computed)]
    if isinstance(form, TriangleFormat):
        distances = [torch.cdist(side, side) for side in values]
        values = [side / side.mean(dim=(1, 2), keepdim=True).clamp(min=1e-12) for side in distances]
    elif isinstance(form, TopKFormat):
        values = [side.exp() for side in values]
    one, two = (side.flatten(1) for side in values)
    return (one - two).norm(dim=1) / one.norm(dim=1).clamp(min=1e-12)


def _compare(cache, batch, names, checksums, payloads, result) -> None:
    """Compare a batch of recomputed records with the stored ones, and add what is found to the result."""
    located = [divmod(index, cache.manifest.num_positions) for index in batch]
    stored = [cache.record(*place) for place in located]
    stored_payloads = torch.from_numpy(np.stack([payload for _, payload in stored]))
    found = []
    for entry, form in zip(cache.manifest.entries, cache.formats, strict=True):
        part = slice(entry.offset, entry.offset + entry.num_bytes)
        found.append(relative_difference(form, stored_payloads[:, part], torch.from_numpy(payloads)[:, part]).tolist())
    result.largest = [max(before, *values) for before, values in zip(result.largest, found, strict=True)]
    result.num_records += len(batch)
    for number, ((view, position), name) in enumerate(zip(located, names, strict=True)):
        where = f'view {view}, position {position} ({name})'
        if int(checksums[number]) != int(stored[number][0]):
            result.problems.append(f'{where}: the augmented image is another one than the record was made of')
            continue
        for entry, values, tolerance in zip(cache.manifest.entries, found, result.tolerances, strict=True):
            if not values[number] <= tolerance:
                result.problems.append(
                    f'{where}: {entry.content} of {entry.tap} are off by {values[number]:.2g}, and rounding by {tolerance:g}'
                )


def _tolerance(cache: TeacherCache, form: RecordFormat) -> float:
    half = {cache.manifest.teacher.get(name) for name in ('dtype', 'autocast_dtype')} & {'float16', 'bfloat16'}
    return COARSE_TOLERANCE if half or isinstance(form, BasisFormat) else TOLERANCE
