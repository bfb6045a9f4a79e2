"""The records of a teacher cache that belong to the images of repeatable views."""

import zlib
from collections.abc import Iterable, Mapping

import numpy as np
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.utils.data import Dataset

from .canonical import first_difference
from .errors import CacheError
from .fingerprints import data_differences, data_fingerprint, version_differences
from .record_files import TeacherCache
from .view_mixing import mixing_settings


class ViewRecords:
    """Read the record of each augmented image, and check that the image is the one that the teacher saw.

    Args:
        folder: Folder of the cache.

    Raises:
        CacheError: There is no cache, or it cannot be used.
    """

    def __init__(self, folder: str) -> None:
        self._cache = TeacherCache(folder)
        self._identity = self._cache.manifest.identity

    def check_views(self, num_views: int, seed: int, augments: Mapping | None) -> None:
        """Check that the cache was made from the same views.

        Args:
            num_views: Number of views.
            seed: Their seed.
            augments: Settings of the mixing.

        Raises:
            CacheError: Something differs; the message names all of it.
        """
        manifest = self._cache.manifest
        pairs = {
            'num_views': (manifest.num_views, num_views),
            'seed': (manifest.seed, seed),
            'augments': (mixing_settings(manifest.augments), mixing_settings(augments)),
        }
        self._report(first_difference(*values, name) for name, values in pairs.items())

    def check_data(self, dataset_config: Mapping, dataset: Dataset) -> None:
        """Check that the cache was made from the same images and pipelines.

        Args:
            dataset_config: Config of the data set.
            dataset: The data set built from it.

        Raises:
            CacheError: Something differs; the message names all of it.
        """
        self._report(data_differences(self._cache.manifest.data, data_fingerprint(dataset_config, dataset)))

    def attach(self, view: int, position: int, inputs: Tensor, sample: DataSample) -> None:
        """Set the record of a data sample, see :func:`set_record`.

        Raises:
            CacheError: The image is not the one that the teacher saw, or the record is damaged.
        """
        checksum, record = self._cache.record(view, position)
        if checksum != augmented_image_checksum(inputs):
            raise CacheError(self._changed_image(view, sample))
        set_record(sample, record, self._identity)

    def _report(self, differences: Iterable[str | None]) -> None:
        differences = [difference for difference in differences if difference]
        if differences:
            raise CacheError(
                f'train_dataloader.dataset.cache={str(self._cache.folder)!r} was made from other views: '
                f'{"; ".join(differences)}. Train with the config that tools/cache_teacher.py has written, restore the '
                'data, or make another cache'
            )

    def _changed_image(self, view: int, sample: DataSample) -> str:
        """The message about an image that came out otherwise."""
        changed = version_differences(self._cache.manifest.versions)
        if changed:
            cause = f'Packages that decode or augment images differ: {", ".join(changed)}. Install the versions of the cache'
        else:
            cause = (
                'The versions of the packages that decode and augment images are those of the cache. So the file was '
                'changed since: restore it. Or a transform does not draw from the global random state of Python, NumPy or '
                'torch, and cannot be repeated: change the transform'
            )
        return (
            f'{image_name(sample)}: view {view} of this image is not the one whose teacher outputs are in '
            f'{self._cache.folder}: its checksum differs. {cause}, or make the cache anew'
        )


def set_record(sample: DataSample, record: np.ndarray, identity: str) -> None:
    """Set the fields ``teacher_record`` and ``teacher_cache_id`` of a data sample.

    Args:
        sample: The data sample.
        record: The payload, uint8. A tensor would take a file descriptor for each image that comes from a worker process.
        identity: Checksum of the manifest of the cache.
    """
    sample.set_field(record, 'teacher_record', field_type='metainfo')
    sample.set_field(identity, 'teacher_cache_id', field_type='metainfo')


def image_name(sample: DataSample) -> str:
    """The file that a data sample was read from, for messages."""
    return str(sample.get('img_path') or f'image {sample.get("sample_idx")}')


def augmented_image_checksum(inputs: Tensor) -> int:
    """Return the CRC32 of the values of an augmented image, as the pipeline returns it."""
    return zlib.crc32(inputs.contiguous().numpy())
