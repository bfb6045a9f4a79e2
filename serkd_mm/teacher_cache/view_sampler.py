import math
from collections.abc import Iterator

import torch
from mmengine.dist import get_dist_info, sync_random_seed
from mmpretrain.registry import DATA_SAMPLERS
from torch.utils.data import Sampler

from .errors import CacheError
from .repeatable_views import RepeatableViews


@DATA_SAMPLERS.register_module()
class ViewSampler(Sampler):
    """Draw the images of a view of :class:`RepeatableViews` in every epoch: epoch e trains on view e mod K.

    The order is another one in every epoch. Images that are mixed stay together as a pair. Pairs, or images that are not
    mixed, go round-robin to the ranks, so two ranks with batches of 2 see the same images in a step as one rank with
    batches of 4.

    Args:
        dataset: A :class:`RepeatableViews`; the runner passes it.
        seed: Seed of the order, equal on all ranks; the runner passes the seed of the run. Default: None, a common random
            one.
        shuffle: Whether the order is random. Default: True.
        round_up: Whether the first images are repeated so that all ranks have equally many. Default: True.

    Raises:
        CacheError: The data set is another one.
    """

    def __init__(
        self, dataset: RepeatableViews, seed: int | None = None, shuffle: bool = True, round_up: bool = True
    ) -> None:
        if not isinstance(dataset, RepeatableViews):
            raise CacheError(
                "train_dataloader.sampler: ViewSampler needs train_dataloader.dataset=dict(type='RepeatableViews', "
                f"dataset=..., num_views=...), but the data set is {type(dataset).__name__}. Use dict(type='DefaultSampler')"
            )
        self.rank, self.world_size = get_dist_info()
        self.dataset, self.shuffle, self.round_up = dataset, shuffle, round_up
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of this rank: the number of the view times its positions, plus the position."""
        size, count = self.dataset.group_size, self._num_groups
        groups = torch.arange(count)
        if self.shuffle:
            groups = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed + self.epoch))
        if self.round_up:
            groups = groups[torch.arange(math.ceil(count / self.world_size) * self.world_size) % count]
        first = (self.epoch % self.dataset.num_views) * self.dataset.num_positions
        for group in groups[self.rank :: self.world_size].tolist():
            yield from range(first + group * size, first + (group + 1) * size)

    def __len__(self) -> int:
        """The number of images of this rank in an epoch."""
        missing = 0 if self.round_up else self.rank
        return math.ceil((self._num_groups - missing) / self.world_size) * self.dataset.group_size

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the epoch, which says the view and the order."""
        self.epoch = epoch

    @property
    def _num_groups(self) -> int:
        return self.dataset.num_positions // self.dataset.group_size
