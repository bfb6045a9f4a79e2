"""Pure tensor functions: the mathematics of SeRKD, readable in one place.

Nothing here knows a config, a registry or a module. Shapes use B images, N = H x W tokens, C channels and M superpixels;
L stands for the number of tokens a relation is taken between.
"""

from .relations import angle_relation_loss, distance_relation_loss
from .superpixels import (
    OutputGrid,
    associate_superpixels,
    average_cells,
    cell_of_token,
    maximum_cells,
    superpixel_grid,
    superpixel_tokens,
)

__all__ = [
    'OutputGrid',
    'angle_relation_loss',
    'associate_superpixels',
    'average_cells',
    'cell_of_token',
    'distance_relation_loss',
    'maximum_cells',
    'superpixel_grid',
    'superpixel_tokens',
]
