"""Pure tensor functions: the mathematics of SeRKD and SEKD in one place.

No function here depends on a config, a registry or a module. Shapes use B images, N = H x W tokens, C channels and M
superpixels; L is the number of tokens that a relation loss compares. :mod:`serkd_mm.ops.reference` has the paper's own form.
"""

from .angle_relation import angle_relation_loss
from .cells import OutputGrid, average_cells, cell_of_token, maximum_cells, superpixel_grid
from .channel_graph import (
    channel_attention,
    edge_difference,
    spectral_difference,
    spectral_embedding,
    unit_vertices,
    vertex_difference,
)
from .distance_relation import distance_relation_loss, normalized_distances
from .linear_cka import linear_cka
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
    'linear_cka',
    'maximum_cells',
    'normalized_distances',
    'spectral_difference',
    'spectral_embedding',
    'superpixel_grid',
    'superpixel_tokens',
    'unit_vertices',
    'vertex_difference',
]
