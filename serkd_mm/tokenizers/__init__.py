"""Tokenizers turn a tapped feature into a token grid ``(B, C, H, W)``."""

from .patch_tokenizer import PatchTokenizer

__all__ = ['PatchTokenizer']
