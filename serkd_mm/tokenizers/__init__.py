"""Tokenizers turn a tapped feature into a token grid ``(B, C, H, W)``."""

from .conv_tokenizer import ConvTokenizer
from .grid_tokenizer import GridTokenizer
from .patch_tokenizer import PatchTokenizer
from .pool_tokenizer import PoolTokenizer

__all__ = ['ConvTokenizer', 'GridTokenizer', 'PatchTokenizer', 'PoolTokenizer']
