"""Graphs whose vertices are the channels of an image's feature map: what SEKD compares (arXiv:2405.08547).

A graph is given by its vertices V, ``(B, L, C)``: channel c of an image is the vector of its values at L positions. The edge
between two channels is the inner product of their vectors, so the adjacency matrix is the Gram matrix A = V^T V. It is not
built: a tokenized map has fewer positions than channels (196 to 1024), and distances between Gram matrices follow from
matrices of L x L.
"""

import torch

from .precision import at_least_float32, autocast_off

# A channel whose norm is below this share of its image's largest is empty: it has no direction.
_EMPTY_CHANNEL = 1e-6


def unit_vertices(channels: torch.Tensor) -> torch.Tensor:
    """Scale every channel to norm 1, so that edges are cosine similarities.

    A channel that is 0 everywhere has no direction: it stays 0 and has zero gradient.

    Args:
        channels: Values ``(B, L, C)``.

    Returns:
        ``(B, L, C)`` in float32 or better.
    """
    channels = at_least_float32(channels)
    squared = channels.square().sum(dim=1, keepdim=True)
    tiny = torch.finfo(squared.dtype).tiny
    empty = squared <= (_EMPTY_CHANNEL**2 * squared.detach().amax(dim=2, keepdim=True)).clamp(min=tiny)
    return channels * squared.masked_fill(empty, 1.0).rsqrt().masked_fill(empty, 0.0)


def channel_attention(channels: torch.Tensor) -> torch.Tensor:
    """Compute the share of each channel in the sum of an image's absolute activations.

    Args:
        channels: Values ``(B, L, C)``.

    Returns:
        ``(B, C)`` in float32 or better, rows summing to 1; 0 for an image without activation.
    """
    strength = at_least_float32(channels).abs().sum(dim=1)
    return strength / strength.sum(dim=1, keepdim=True).clamp(min=torch.finfo(strength.dtype).tiny)


def vertex_difference(student: torch.Tensor, teacher: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """Compute one minus the cosine similarity of corresponding channels, weighted: L_V of each image.

    Args:
        student: Unit vertices ``(B, L, C)``.
        teacher: Unit vertices ``(B, L, C)``.
        attention: Weights ``(B, C)``.

    Returns:
        ``(B,)``.
    """
    return (attention * (1 - (student * teacher).sum(dim=1))).sum(dim=1)


def edge_difference(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compute the mean squared difference of the edges of two graphs: L_E of each image.

    Args:
        student: Unit vertices ``(B, L, C)``.
        teacher: Unit vertices ``(B, L, C)``.

    Returns:
        ``(B,)``.
    """
    return _squared_distance(student, teacher) / student.shape[2] ** 2


def spectral_difference(student: torch.Tensor, teacher: torch.Tensor, cutoff: float) -> torch.Tensor:
    """Compute the squared difference of two graphs' spectral embeddings, relative to the teacher's: L_S of each image.

    It compares the inner products of the embedded vertices, ``|f(A_s) - f(A_t)|^2 / |f(A_t)|^2``; see
    :func:`spectral_embedding`. If the teacher has no activation, the difference is not divided.

    Args:
        student: Unit vertices ``(B, L, C)``.
        teacher: Unit vertices ``(B, L, C)``.
        cutoff: Share of the graph's spectrum at which an eigenvector counts half.

    Returns:
        ``(B,)``.
    """
    student, teacher = spectral_embedding(student, cutoff), spectral_embedding(teacher, cutoff)
    with autocast_off(teacher):
        size = _squared_norm(teacher @ teacher.mT)
    return _squared_distance(student, teacher) / size.masked_fill(size == 0, 1.0)


def spectral_embedding(vertices: torch.Tensor, cutoff: float) -> torch.Tensor:
    """Embed a graph's vertices by the leading eigenvectors of its adjacency matrix, smoothly.

    With A = U diag(lambda) U^T, the inner products of the embedded vertices are f(A) = U diag(f(lambda)) U^T, where
    f(lambda) = lambda / (lambda + cutoff * C): close to 1 for eigenvectors that carry much of the graph (the eigenvalues of
    a graph of unit vertices add up to C), close to 0 for those that carry little. A hard choice of the first k eigenvectors
    would have no gradient where the k-th and the next eigenvalue are equal, and the eigenvectors themselves none wherever
    two are; f is smooth, so its gradient is finite everywhere. No eigenvector is computed: f(A) is also
    V^T (V V^T + cutoff * C)^-1 V, which needs a Cholesky factor of L x L and does not depend on the sign or rotation of
    eigenvectors.

    Args:
        vertices: ``(B, L, C)``.
        cutoff: Share of the graph's spectrum at which an eigenvector counts half.

    Returns:
        Embedded vertices ``(B, L, C)`` in float32 or better, up to a rotation: their Gram matrix is f(A).
    """
    vertices = at_least_float32(vertices)
    _, length, num_channels = vertices.shape
    with autocast_off(vertices):
        floor = cutoff * num_channels * torch.eye(length, dtype=vertices.dtype, device=vertices.device)
        # Unlike cholesky(), it does not wait for a GPU in order to raise. Where it fails, as for NaN, the result is NaN.
        factor, failed = torch.linalg.cholesky_ex(vertices @ vertices.mT + floor)
        marks = factor.new_zeros(len(factor)).masked_fill(failed != 0, torch.nan)
        factor = factor + marks[:, None, None]  # Keeps the layout, unlike masked_fill, and so the speed.
        return torch.linalg.solve_triangular(factor, vertices, upper=False)


def _squared_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """|A_s - A_t|^2 = |V_s V_s^T|^2 - 2 |V_s V_t^T|^2 + |V_t V_t^T|^2, the Frobenius norm of each image, ``(B,)``."""
    with autocast_off(student):
        own, across, other = student @ student.mT, student @ teacher.mT, teacher @ teacher.mT
    return _squared_norm(own) - 2 * _squared_norm(across) + _squared_norm(other)


def _squared_norm(matrices: torch.Tensor) -> torch.Tensor:
    return matrices.square().sum(dim=(1, 2))
