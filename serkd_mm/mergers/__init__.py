"""Mergers: a token grid ``(B, C, H, W)`` to a smaller one ``(B, C, h, w)``, whose tokens the relation losses compare."""

from .cell_mergers import AvgPoolMerger, MaxPoolMerger
from .identity_merger import IdentityMerger
from .superpixel_merger import SuperpixelMerger
from .superpixel_refiner import SuperpixelRefiner

__all__ = ['AvgPoolMerger', 'IdentityMerger', 'MaxPoolMerger', 'SuperpixelMerger', 'SuperpixelRefiner']
