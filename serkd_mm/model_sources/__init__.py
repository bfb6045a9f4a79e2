"""Where models come from: mmpretrain's zoo, config files, dicts, timm, Hugging Face; and the files of their weights."""

from .empty_pretrained import drop_empty_pretrained
from .find_model import find_model
from .find_weights import find_weights
from .hub_file import HubFile
from .hugging_face_model import HuggingFaceModel
from .model_source import ModelSource
from .preprocessors import check_preprocessor
from .weights_file import WeightsFile, published_hash

__all__ = [
    'HubFile',
    'HuggingFaceModel',
    'ModelSource',
    'WeightsFile',
    'check_preprocessor',
    'drop_empty_pretrained',
    'find_model',
    'find_weights',
    'published_hash',
]
