from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from mmpretrain.registry import DATASETS
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.utils.data import Dataset

from ..seeding import derive_seed, seeded
from .errors import CacheError
from .view_mixing import PairMixing, ViewMix
from .view_records import ViewRecords

# Last numbers that keep the streams of a view apart.
_ORDER, _AUGMENTATION, _MIXING = 1, 2, 3


@DATASETS.register_module()
class RepeatableViews(Dataset):
    """Augment the images of a data set in K views that are the same whenever and wherever they are loaded.

    The pipeline of an image runs under a seed of its own, which follows from ``seed``, the number of the view and the number
    of the image. So a view does not depend on ranks, worker processes, batch size, or order, and the random state outside is
    left as it is. The pipeline must draw from the global random state of Python, NumPy or torch, as the transforms of
    mmpretrain do. :class:`ViewSampler` trains on one view in an epoch.

    An index is the number of the view times ``num_positions``, plus the position of the image in the seeded order of the
    view. The length is that of one view.

    Mixup and CutMix mix the images at positions 2k and 2k + 1, their *mates*; :class:`ViewPreprocessor` applies what is
    drawn here. Choice, ratio and box follow the distributions of mmpretrain's ``Mixup`` and ``CutMix``, with these
    differences:

    - Choice, ratio and box are drawn for each pair. mmpretrain draws them once for a batch, so there all images of a batch
      have one ratio.
    - Mates come from the whole data set, by a permutation that is another one in each view. mmpretrain permutes the batch of
      a rank.
    - No image is its own mate, except the last one of an odd number, which is repeated and not mixed. In mmpretrain's
      permutation of a batch, one image on average is mixed with itself and stays as it is.
    - Both halves are used: if an image is mixed with its mate by a ratio, the mate is mixed with the image by the same
      ratio (and, for CutMix, the same box). mmpretrain's mate has its own mate.

    The distribution of a single mixed image given that it is mixed with another one is the same.

    Args:
        dataset: Config of any data set of mmpretrain or mmengine, with its pipeline.
        num_views: Number of views K.
        seed: Seed of all views. Default: 0.
        augments: ``dict(augments=[...], probs=None)`` with ``Mixup`` and ``CutMix``, as in mmpretrain's ``train_cfg`` of a
            classifier. Default: None, no mixing.
        cache: Folder of a teacher cache of these views. The data samples then have the fields ``teacher_record`` and
            ``teacher_cache_id``, and each augmented image is compared with the one that the teacher saw by its checksum.
            Default: None.

    Raises:
        CacheError: A setting cannot be used; or the cache is missing, unfinished or damaged, or was made from other views.
    """

    def __init__(
        self,
        dataset: Mapping,
        num_views: int,
        seed: int = 0,
        augments: Mapping | None = None,
        cache: str | None = None,
    ) -> None:
        if not isinstance(dataset, Mapping):
            raise CacheError(f'RepeatableViews.dataset must be the config of a data set, but is {type(dataset).__name__}')
        for name, value, minimum in (('num_views', num_views, 1), ('seed', seed, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
                raise CacheError(f'RepeatableViews.{name} must be a whole number, {minimum} or more, but is {value!r}')
        self.dataset_config, self.num_views, self.seed = deepcopy(dataset), num_views, seed
        self.augments = deepcopy(augments)
        self._mixing = PairMixing(augments) if augments else None
        self._records = ViewRecords(cache) if cache else None
        if self._records is not None:
            self._records.check_views(num_views, seed, augments)  # Before the data are read.
        self.dataset = DATASETS.build(deepcopy(dataset))
        self._order: tuple[int, np.ndarray] | None = None
        self.full_init()
        if self._records is not None:
            self._records.check_data(self.dataset_config, self.dataset)

    def full_init(self) -> None:
        """Read the annotations of the data set."""
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()

    @property
    def metainfo(self) -> dict:
        """Meta information of the data set."""
        return self.dataset.metainfo

    @property
    def num_images(self) -> int:
        """Number of images N."""
        return len(self.dataset)

    @property
    def group_size(self) -> int:
        """How many positions stay together in a batch: 2 with mixing, or else 1."""
        return 1 if self._mixing is None else 2

    @property
    def num_positions(self) -> int:
        """Number of positions of a view: N, rounded up to an even number for mixing."""
        return -(-self.num_images // self.group_size) * self.group_size

    def __len__(self) -> int:
        return self.num_positions

    def image_of(self, index: int) -> int:
        """Return the number of the image at an index."""
        view, position = self._locate(index)
        # Only the last position of an odd number of images is beyond them.
        return int(self._order_of(view)[min(position, self.num_images - 1)])

    def get_data_info(self, idx: int) -> dict:
        """Return the annotation of the image at an index."""
        return self.dataset.get_data_info(self.image_of(idx))

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the classes of the image at an index."""
        return self.dataset.get_cat_ids(self.image_of(idx))

    def __getitem__(self, index: int) -> dict:
        """Load and augment the image at an index.

        Args:
            index: Number of the view times ``num_positions``, plus the position in the view.

        Returns:
            ``inputs`` and ``data_samples``, as the data set returns them. With mixing, the data sample has the field
            ``view_mix``, a :class:`~serkd_mm.teacher_cache.view_mixing.ViewMix`.

        Raises:
            CacheError: The pipeline returns something else, or the image is not the one that the teacher saw.
        """
        view, position = self._locate(index)
        image = self.image_of(index)
        with seeded(derive_seed(self.seed, view, image, _AUGMENTATION)):
            result = self.dataset[image]
            inputs, sample = _unpack(result)
            if self._mixing is not None:
                mix = self._draw_mix(view, position, image, inputs.shape[-2:])
                sample.set_field(mix, 'view_mix', field_type='metainfo')
        if self._records is not None:
            self._records.attach(view, position, inputs, sample)
        return result

    def _draw_mix(self, view: int, position: int, image: int, size: torch.Size) -> ViewMix:
        """Draw the same numbers for both images of a pair, inside a block that restores the random state."""
        mate = self.image_of(view * self.num_positions + (position ^ 1))
        if mate == image:
            return ViewMix(image, mate)
        np.random.seed(derive_seed(self.seed, view, position // 2, _MIXING))  # Mixup and CutMix draw from NumPy.
        return self._mixing.draw(image, mate, tuple(size))

    def _locate(self, index: int) -> tuple[int, int]:
        """Return the view and the position of an index."""
        if not 0 <= index < self.num_views * self.num_positions:
            raise IndexError(f'index {index} of {self.num_views} views of {self.num_positions} positions')
        return divmod(index, self.num_positions)

    def _order_of(self, view: int) -> np.ndarray:
        """Return the images of a view in their order."""
        if self._order is None or self._order[0] != view:
            # The raw numbers of a bit generator are the same in all versions of NumPy; those of `permutation` may change.
            numbers = np.random.PCG64(np.random.SeedSequence((self.seed, view, _ORDER))).random_raw(self.num_images)
            self._order = view, np.argsort(numbers, kind='stable')
        return self._order[1]


def _unpack(result: Any) -> tuple[Tensor, DataSample]:
    """Return the image and the data sample that a pipeline has packed."""
    inputs = result.get('inputs') if isinstance(result, Mapping) else None
    sample = result.get('data_samples') if isinstance(result, Mapping) else None
    if isinstance(inputs, Tensor) and inputs.ndim == 3 and isinstance(sample, DataSample):
        return inputs, sample
    raise CacheError(
        'RepeatableViews.dataset: its pipeline must return one image tensor as `inputs` and a DataSample as `data_samples`, '
        f'but these are {type(inputs).__name__} and {type(sample).__name__}. End the pipeline with dict(type="PackInputs"); '
        'pipelines of several crops cannot be used'
    )
