"""Mergers turn a token grid ``(B, C, H, W)`` into merged tokens ``(B, M, C)``, the ones that relations are taken between."""

from .cell_mergers import AvgPoolMerger, MaxPoolMerger
from .identity_merger import IdentityMerger
from .superpixel_merger import SuperpixelMerger
from .superpixel_refiner import SuperpixelRefiner

__all__ = ['AvgPoolMerger', 'IdentityMerger', 'MaxPoolMerger', 'SuperpixelMerger', 'SuperpixelRefiner']
