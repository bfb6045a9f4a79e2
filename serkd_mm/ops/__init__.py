"""Pure tensor functions: the mathematics of SeRKD and SEKD, readable in one place.

Nothing here knows a config, a registry or a module. Shapes use B images, N = H x W tokens, C channels and M superpixels;
L stands for the number of tokens a relation is taken between.
"""

from .cells import OutputGrid, average_cells, cell_of_token, maximum_cells, superpixel_grid
from .channel_graphs import (
    channel_attention,
    edge_difference,
    spectral_difference,
    spectral_embedding,
    unit_vertices,
    vertex_difference,
)
from .relations import angle_relation_loss, distance_relation_loss
from .superpixels import associate_superpixels, superpixel_tokens

__all__ = [
    'OutputGrid',
    'angle_relation_loss',
    'associate_superpixels',
    'average_cells',
    'cell_of_token',
    'channel_attention',
    'distance_relation_loss',
    'edge_difference',
    'maximum_cells',
    'spectral_difference',
    'spectral_embedding',
    'superpixel_grid',
    'superpixel_tokens',
    'unit_vertices',
    'vertex_difference',
]
