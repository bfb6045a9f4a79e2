"""A teacher's outputs on disk: views of the data that can be repeated, and a record for each image of each view."""

from .errors import CacheError
from .manifest import Entry, Manifest
from .record_files import ShardWriter, TeacherCache

__all__ = ['CacheError', 'Entry', 'Manifest', 'ShardWriter', 'TeacherCache']
