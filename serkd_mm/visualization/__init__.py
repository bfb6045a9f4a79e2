"""Pictures of superpixels and of the relations between them (SeRKD, arXiv:2503.21269, Fig. 3)."""

from .samples import draw_sample, find_view
from .superpixel_visualization_hook import SuperpixelVisualizationHook
from .superpixels import Superpixels, superpixels_of

__all__ = ['SuperpixelVisualizationHook', 'Superpixels', 'draw_sample', 'find_view', 'superpixels_of']
