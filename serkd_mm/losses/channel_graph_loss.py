from numbers import Real

import torch
from mmpretrain.registry import MODELS
from torch import nn

from ..lazy_layers import build_on_first_input
from ..ops.channel_graph import channel_attention, edge_difference, spectral_difference, unit_vertices, vertex_difference
from ..ops.precision import at_least_float32
from .base_loss import BaseDistillationLoss, check_weight


@MODELS.register_module()
class ChannelGraphLoss(BaseDistillationLoss):
    """Channels of a feature map as a graph: an interpretation of SEKD (arXiv:2405.08547).

    This follows the summary of SEKD, not its full text, which was not available: L = L_task + alpha L_V + beta L_E +
    gamma L_S, with vertices aligned under the teacher's attention, edges, and spectral embeddings, at several levels of the
    backbone. For one level, averaged over the images:

    - A 1x1 convolution maps the student's channels to the teacher's number. It is built at the first call, trained with the
      student, and saved under ``distill.``. Channel c is a vertex v_c: its map, flattened and of norm 1.
    - L_V = sum_c a_c (1 - <v_c of the student, v_c of the teacher>). The attention a_c is the share of the teacher's channel
      c in the sum of its absolute activations.
    - L_E = mean over all c, d of (A_s - A_t)_cd^2, where A_cd = <v_c, v_d>, the cosine similarity of the maps.
    - L_S = ``|f(A_s) - f(A_t)|^2 / |f(A_t)|^2``, where f keeps the eigenvectors with large eigenvalues, see
      :func:`serkd_mm.ops.spectral_embedding`. It does not depend on the sign or the rotation of eigenvectors, and its
      gradient is finite where eigenvalues repeat.

    For several levels, put the loss on a view of several taps. Time and memory grow with the number of positions L as L^3
    and L^2, so tokenize large maps first.

    Args:
        vertex_weight: Factor alpha of L_V. Default: 1.0.
        edge_weight: Factor beta of L_E. Default: 1.0.
        spectral_weight: Factor gamma of L_S. Default: 1.0.
        spectral_cutoff: Share of the graph's spectrum at which an eigenvector counts half in f. Default: 0.01.
        loss_weight: Factor of the sum. Default: 1.0.

    Raises:
        ValueError: A weight is negative or infinite, all three are 0, or ``spectral_cutoff`` is not between 0 and 1.
    """

    def __init__(
        self,
        vertex_weight: float = 1.0,
        edge_weight: float = 1.0,
        spectral_weight: float = 1.0,
        spectral_cutoff: float = 0.01,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        self.vertex_weight = check_weight('vertex_weight', vertex_weight)
        self.edge_weight = check_weight('edge_weight', edge_weight)
        self.spectral_weight = check_weight('spectral_weight', spectral_weight)
        if not vertex_weight + edge_weight + spectral_weight:
            raise ValueError('vertex_weight, edge_weight and spectral_weight are all 0: there is no loss left')
        if not isinstance(spectral_cutoff, Real) or not 0 < spectral_cutoff < 1:
            raise ValueError(f'spectral_cutoff must be between 0 and 1, but got {spectral_cutoff!r}')
        self.spectral_cutoff = spectral_cutoff
        self.register_module('projector', None)

    def compare(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """Compare tokens ``(B, L, C_s)`` with ``(B, L, C_t)``, or maps ``(B, C_s, H, W)`` with ``(B, C_t, H, W)``.

        Raises:
            ValueError: The batch sizes or positions differ, or a width differs from that of the first call.
        """
        student, teacher = _channels(student), _channels(teacher)
        if student.ndim != 3 or student.shape[:2] != teacher.shape[:2]:
            raise ValueError(
                'ChannelGraphLoss compares tokens (B, L, C_s) with (B, L, C_t), or maps (B, C_s, H, W) with '
                f'(B, C_t, H, W), but got, flattened, student {tuple(student.shape)} and teacher {tuple(teacher.shape)}'
            )
        student = at_least_float32(student)
        widths = (student.shape[2], teacher.shape[2])
        projector = build_on_first_input(self, 'projector', student, widths, nn.Linear)
        attention = channel_attention(teacher)
        student, teacher = unit_vertices(projector(student)), unit_vertices(teacher)
        loss = student.new_zeros(student.shape[0])
        if self.vertex_weight:
            loss = loss + self.vertex_weight * vertex_difference(student, teacher, attention)
        if self.edge_weight:
            loss = loss + self.edge_weight * edge_difference(student, teacher)
        if self.spectral_weight:
            loss = loss + self.spectral_weight * spectral_difference(student, teacher, self.spectral_cutoff)
        return loss.mean()

    def extra_repr(self) -> str:
        return (
            f'vertex_weight={self.vertex_weight}, edge_weight={self.edge_weight}, spectral_weight={self.spectral_weight}, '
            f'spectral_cutoff={self.spectral_cutoff}, {super().extra_repr()}'
        )


def _channels(feature: torch.Tensor) -> torch.Tensor:
    """Flatten a map ``(B, C, H, W)`` to tokens ``(B, L, C)``; tokens stay as they are."""
    return feature.flatten(2).mT if feature.ndim == 4 else feature
