from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count, islice
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from mmpretrain.registry import HOOKS
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..seeding import derive_seed, index_sampler, run_seed, set_seed
from .data_errors import DataError

# A last number that keeps the streams of one iteration apart. The training step has none.
_AUGMENTATION, _ORDER = 1, 2


@HOOKS.register_module()
class IterationSeedHook(Hook):
    """Seed every iteration of an iteration-based training, and start its data at the right batch, to resume bit for bit.

    mmengine loads all images that have been trained on again to find its position, and draws other augmentations. Here only
    their indices are drawn. The training step and the augmentation of a batch are seeded from the seed of the run, the
    iteration and the rank, whichever worker process loads the batch. Worker processes start after all hooks have prepared
    the datasets. Epoch-based trainings are left to :class:`EpochSeedHook`, iterable-style datasets to mmengine.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Replace the endless iterator of the loop, after the runner has resumed."""
        loop = runner.train_loop
        if _applies(runner):
            # Later versions skip by a method of the iterator, mmengine 0.10.7 by reading as many batches.
            num_skipped = 0 if hasattr(loop.dataloader_iterator, 'skip_iter') else loop.iter
            loop.dataloader_iterator = None  # Ends the worker processes that have started already.
            loop.dataloader._iterator = None
            loop.dataloader_iterator = SeededBatches(loop.dataloader, run_seed(runner), loop.iter, num_skipped)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Seed the training step."""
        if _applies(runner):
            set_seed(derive_seed(run_seed(runner), runner.iter, get_rank()))


def _applies(runner: Runner) -> bool:
    return isinstance(runner.train_loop, IterBasedTrainLoop) and not isinstance(
        runner.train_dataloader.dataset, IterableDataset
    )


class SeededBatches:
    """Endless batches of a dataloader from a given iteration on, each augmented under its own seed.

    Args:
        loader: The dataloader.
        seed: Seed of the run.
        start: Number of the first batch.
        num_skipped: How many batches the loop reads and drops first. Nothing is loaded for them.
    """

    def __init__(self, loader: DataLoader, seed: int, start: int, num_skipped: int = 0) -> None:
        self._num_skipped = num_skipped
        with_workers = {
            'multiprocessing_context': loader.multiprocessing_context,
            'prefetch_factor': loader.prefetch_factor,
            'timeout': loader.timeout,
        }
        batches = DataLoader(
            _SeededBatchDataset(loader.dataset, loader.collate_fn, seed),
            batch_size=None,  # An item of this dataset is a batch.
            sampler=_NumberedBatches(loader, seed, start),
            collate_fn=_unchanged,
            num_workers=loader.num_workers,
            pin_memory=loader.pin_memory,
            worker_init_fn=loader.worker_init_fn,
            **(with_workers if loader.num_workers else {}),
        )
        self._loader, self._batches = batches, None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._num_skipped:
            self._num_skipped -= 1
            return None
        if self._batches is None:
            self._batches = iter(self._loader)
        return next(self._batches)

    def skip_iter(self, num_iters: int) -> None:
        """Do nothing: the first batch is the right one."""


class _SeededBatchDataset(Dataset):
    """Whole batches of a dataset by number and indices; picklable for worker processes."""

    def __init__(self, dataset: Dataset, collate: Callable, seed: int) -> None:
        self.dataset, self.collate, self.seed, self.rank = dataset, collate, seed, get_rank()

    def __getitem__(self, item: tuple[int, Sequence[int]]) -> Any:
        number, indices = item
        set_seed(derive_seed(self.seed, number, self.rank, _AUGMENTATION))
        return self.collate([self.dataset[index] for index in indices])


class _NumberedBatches:
    """Number and indices of every batch from ``start`` on, pass after pass over the data."""

    def __init__(self, loader: DataLoader, seed: int, start: int) -> None:
        self.loader, self.seed, self.start = loader, seed, start

    def __iter__(self) -> Iterator[tuple[int, Sequence[int]]]:
        return islice(enumerate(self._all_batches()), self.start, None)

    def _all_batches(self) -> Iterator[Sequence[int]]:
        for number in count():
            batches = self._batches_of_pass(number)
            first = next(batches, None)
            if first is None:
                raise DataError(
                    'train_dataloader: there are fewer images than a batch. Lower batch_size, or set drop_last=False'
                )
            yield from chain([first], batches)

    def _batches_of_pass(self, number: int) -> Iterator[Sequence[int]]:
        sampler = index_sampler(self.loader)
        if isinstance(sampler, InfiniteSampler):
            sampler.indices = sampler._indices_of_rank()  # It goes on where an earlier reader has stopped.
        elif number and hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(number)
        set_seed(derive_seed(self.seed, number, 0, _ORDER))  # For samplers without a seed of their own.
        return iter(self.loader.batch_sampler)


def _unchanged(batch: Any) -> Any:
    return batch
