"""Where models come from: mmpretrain's zoo, config files and dicts; and the files of their weights."""

from .model_source import ModelSource, check_file, drop_empty_pretrained, find_model
from .preprocessors import check_preprocessor
from .weights_file import WeightsFile, published_hash

__all__ = [
    'ModelSource',
    'WeightsFile',
    'check_file',
    'check_preprocessor',
    'drop_empty_pretrained',
    'find_model',
    'published_hash',
]
