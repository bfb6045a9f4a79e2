"""Superpixels of images on both sides of a distillation, in pixels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import normalized_distances


@dataclass(frozen=True)
class Superpixels:
    """Superpixels of one side, for one image.

    Attributes:
        labels: The superpixel of each pixel, ``(H, W)`` of int64.
        relations: Normalized distances between superpixel tokens, ``(M, M)``: what equation 10 compares.
        grid_shape: Rows and columns of the superpixel grid.
    """

    labels: Tensor
    relations: Tensor
    grid_shape: tuple[int, int]


def pixel_labels(association: Tensor, token_grid: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """Assign each pixel to the superpixel with the largest share.

    The shares are interpolated bilinearly between tokens, which gives smooth boundaries at any size; interpolated labels
    would not.

    Args:
        association: Shares of the superpixels in each token, ``(N, M)``.
        token_grid: Rows and columns of the N tokens.
        image_size: Height and width in pixels.

    Returns:
        Labels ``(H, W)`` of int64.
    """
    shares = association.float().mT.unflatten(1, token_grid)
    return F.interpolate(shares[None], image_size, mode='bilinear', align_corners=False)[0].argmax(dim=0)


@torch.no_grad()
def superpixels_of(distiller: nn.Module, inputs: Tensor, view: str, tap: str | None = None) -> dict[str, list[Superpixels]]:
    """Compute the superpixels of a view on both sides; leaves the model in eval mode.

    Args:
        distiller: A ``RelationDistiller`` that was built with its teacher.
        inputs: Preprocessed images ``(B, 3, H, W)``.
        view: Name of a view that a loss reads.
        tap: Name of a tap of the view. Default: None, the view's first.

    Returns:
        The superpixels of each image by side, 'student' and 'teacher'.
    """
    distiller.eval()
    objective, (student, teacher) = distiller.distill, distiller.extract_features(inputs)
    chosen = objective.views[view]
    if distiller.teacher is None:  # There are several.
        teacher = teacher[chosen.teacher]
    tap = chosen.taps[0] if tap is None else tap
    tokenizer = objective.tokenizers[chosen.tokenizer_of[tap]]
    student_grid, teacher_grid = tokenizer.student(student[tap]), tokenizer.teacher(teacher[tap])
    merged, association = chosen.merger.associate(student_grid)
    image_size, token_grid = tuple(inputs.shape[-2:]), student_grid.shape[-2:]
    sides = {'student': _of_side(chosen.refine(tap, merged), association, token_grid, image_size)}
    sides['teacher'] = _of_side(*chosen.merger.associate(teacher_grid), teacher_grid.shape[-2:], image_size)
    return sides


def _of_side(
    merged: Tensor, association: Tensor, token_grid: tuple[int, int], image_size: tuple[int, int]
) -> list[Superpixels]:
    """Superpixels of each image from the merged grid ``(B, C, h, w)`` and the association ``(B, N, M)``."""
    relations = normalized_distances(merged.flatten(2).mT.double()).cpu()
    return [
        Superpixels(pixel_labels(shares, token_grid, image_size).cpu(), distances, tuple(merged.shape[-2:]))
        for shares, distances in zip(association, relations, strict=True)
    ]
