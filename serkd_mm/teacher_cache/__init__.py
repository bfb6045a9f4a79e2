"""A teacher's outputs on disk: views of the data that can be repeated, and a record for each image of each view."""

from .errors import CacheError

__all__ = ['CacheError']
