"""A teacher's outputs on disk: views of the data that can be repeated, and a record for each image of each view."""

from .errors import CacheError
from .manifest import Entry, Manifest
from .record_files import ShardWriter, TeacherCache
from .repeatable_views import RepeatableViews
from .view_preprocessor import ViewPreprocessor
from .view_records import augmented_image_checksum
from .view_sampler import ViewSampler

__all__ = [
    'CacheError',
    'Entry',
    'Manifest',
    'RepeatableViews',
    'ShardWriter',
    'TeacherCache',
    'ViewPreprocessor',
    'ViewSampler',
    'augmented_image_checksum',
]
