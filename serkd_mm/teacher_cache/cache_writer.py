"""Fill a teacher cache: every rank writes records of its shards, and goes on where an earlier run was stopped."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmengine.dist import all_gather_object, broadcast_object_list, get_rank, get_world_size
from torch import nn

from ..errors import raise_on_all_ranks
from .errors import CacheError
from .image_batches import Encode, compute_records, load_images
from .manifest import Manifest
from .record_files import ShardWriter, partial_path, shard_path
from .repeatable_views import RepeatableViews

_LARGEST_SHARD = 65536
# Ranks meet after this many batches, so that all of them end soon after one has failed.
_MEETING_BATCHES = 8


@dataclass(frozen=True)
class Batch:
    """Images of a shard that are computed together.

    Its first position is a multiple of the batch size from the start of the shard also where a run goes on, so that each
    image always has the same neighbors: the rounding of a linear layer depends on them.

    Attributes:
        view: The view.
        shard: The shard of the view.
        positions: Positions in the view.
        num_written: How many of the first ones have a record already.
    """

    view: int
    shard: int
    positions: range
    num_written: int = 0

    def indices(self, num_positions: int) -> range:
        """Indices in :class:`RepeatableViews`, whose views have ``num_positions``."""
        start = self.view * num_positions
        return range(start + self.positions.start, start + self.positions.stop)


def choose_shard_size(num_positions: int, num_ranks: int) -> int:
    """Return an even number of positions of a shard, so that a view has at least as many shards as there are ranks.

    Args:
        num_positions: Positions of a view.
        num_ranks: Number of ranks.
    """
    num_pairs = (num_positions + 1) // 2
    pairs = -(-num_pairs // num_ranks)
    if -(-num_pairs // pairs) < num_ranks:
        pairs = max(1, num_pairs // num_ranks)
    return min(2 * pairs, _LARGEST_SHARD)


def plan_batches(manifest: Manifest, view: int, shard: int, num_written: int, batch_size: int) -> Iterator[Batch]:
    """Yield the batches of a shard that have images without a record.

    Args:
        manifest: The manifest of the cache.
        view: The view.
        shard: The shard of the view.
        num_written: Number of records that the shard has.
        batch_size: Images of a batch; the last one of a shard may have fewer.
    """
    begin = shard * manifest.shard_size
    end = begin + manifest.shard_length(shard)
    for first in range(begin + num_written // batch_size * batch_size, end, batch_size):
        positions = range(first, min(first + batch_size, end))
        yield Batch(view, shard, positions, max(0, begin + num_written - first))


def unfinished_shards(folder: str | Path, manifest: Manifest) -> list[tuple[int, int]]:
    """List the views and shards that have no finished file, in order.

    Raises:
        CacheError: A finished file has been truncated.
    """
    found = []
    for view in range(manifest.num_views):
        for shard in range(manifest.num_shards):
            path, expected = shard_path(folder, view, shard), manifest.shard_length(shard) * manifest.record_bytes
            if not path.exists():
                found.append((view, shard))
            elif path.stat().st_size != expected:
                raise CacheError(
                    f'{path} has {path.stat().st_size} bytes instead of {expected}. Delete this file and run the same '
                    'command again'
                )
    return found


def missing_bytes(folder: str | Path, manifest: Manifest) -> int:
    """Return how many bytes of records are not written yet."""
    written: dict[Path, int] = {}
    for path in Path(folder).glob('view_*/shard_*'):  # A finished shard may have an unfinished copy, which does not count.
        written[path.with_suffix('')] = max(path.stat().st_size, written.get(path.with_suffix(''), 0))
    return manifest.num_views * manifest.num_positions * manifest.record_bytes - sum(written.values())


class CacheWriter:
    """Compute the records of a cache and write them.

    Args:
        folder: Folder of the cache, with its manifest.
        manifest: The manifest.
        dataset: The views of the images, without a cache.
        preprocessor: Normalizes and mixes the images, on the device of the teacher.
        encode: Computes the payloads ``(B, bytes)`` of preprocessed images ``(B, 3, H, W)``.
        batch_size: Images of a batch, even if images are mixed.
        num_workers: Processes that read the images of a rank.

    Raises:
        CacheError: The batch size is odd and images are mixed.
    """

    def __init__(
        self,
        folder: str | Path,
        manifest: Manifest,
        dataset: RepeatableViews,
        preprocessor: nn.Module,
        encode: Encode,
        batch_size: int,
        num_workers: int,
    ) -> None:
        if manifest.augments and batch_size % 2:
            raise CacheError(f'--batch-size {batch_size} must be even, because images are mixed in pairs')
        self.folder, self.manifest = Path(folder), manifest
        self.dataset, self.preprocessor, self.encode = dataset, preprocessor, encode
        self.batch_size, self.num_workers = batch_size, num_workers

    def fill(self, report: Callable[[int, int], None]) -> None:
        """Write all records that are missing; to be called on every rank.

        Args:
            report: Called on every rank with the number of records that all ranks have written, an estimate between two
                meetings of the ranks, and with the number that were missing.

        Raises:
            CacheError: An output of the teacher is not finite or does not fit its format; the message names the image. What
                was written before stays. It is raised on all ranks, as all errors are.
        """
        with raise_on_all_ranks():
            writers, batches = self._prepare()
            indices = [batch.indices(self.manifest.num_positions) for batch in batches]
            images = iter(load_images(self.dataset, indices, self.num_workers))
        counts = all_gather_object((len(batches), sum(len(batch.positions) - batch.num_written for batch in batches)))
        num_rounds, num_missing = max(rounds for rounds, _ in counts), sum(images for _, images in counts)
        written = done = 0
        for start in range(0, num_rounds, _MEETING_BATCHES):
            with raise_on_all_ranks():
                for index in range(start, min(start + _MEETING_BATCHES, len(batches))):
                    batch = batches[index]
                    self._write(batch, next(images), writers)
                    written += len(batch.positions) - batch.num_written
                    done += (len(batch.positions) - batch.num_written) * len(counts)
                    report(min(done, num_missing), num_missing)
            done = sum(all_gather_object(written))
            report(done, num_missing)

    def _prepare(self) -> tuple[dict[tuple[int, int], ShardWriter], list[Batch]]:
        """The shards that this rank has begun and goes on with, and its batches."""
        units = [unfinished_shards(self.folder, self.manifest)]
        broadcast_object_list(units)
        begun, batches = {}, []
        for unit in units[0][get_rank() :: get_world_size()]:
            num_written = 0
            if partial_path(self.folder, *unit).exists():
                begun[unit] = ShardWriter(self.folder, self.manifest, *unit)
                num_written = begun[unit].num_written
            missing = list(plan_batches(self.manifest, *unit, num_written, self.batch_size))
            if not missing:  # Killed before the file had its final name.
                begun.pop(unit).finish()
            batches += missing
        return begun, batches

    def _write(self, batch: Batch, data: Mapping, writers: dict[tuple[int, int], ShardWriter]) -> None:
        """Compute and append the records of a batch, and finish the shard after its last one."""
        unit = batch.view, batch.shard
        if unit not in writers:
            writers[unit] = ShardWriter(self.folder, self.manifest, *unit)
        checksums, payloads = compute_records(data, self.preprocessor, self.encode)
        writers[unit].append(checksums[batch.num_written :], payloads[batch.num_written :])
        if writers[unit].num_written == writers[unit].num_records:
            writers.pop(unit).finish()
