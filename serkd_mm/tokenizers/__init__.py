"""Tokenizers: a tapped feature to a token grid ``(B, C, H, W)``."""

from .class_tokenizer import ClassTokenizer
from .conv_tokenizer import ConvTokenizer
from .feature import Feature
from .grid_tokenizer import GridTokenizer
from .patch_tokenizer import PatchTokenizer
from .pool_tokenizer import PoolTokenizer

__all__ = ['ClassTokenizer', 'ConvTokenizer', 'Feature', 'GridTokenizer', 'PatchTokenizer', 'PoolTokenizer']
