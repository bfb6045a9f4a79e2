"""Superpixels of one image on both sides of a distillation, in pixels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Superpixels:
    """Superpixels of one side, for one image.

    Attributes:
        labels: The superpixel of each pixel, ``(H, W)`` of int64.
        relations: Distance between any two superpixel tokens over the mean distance, ``(M, M)``: what equation 10 compares.
        grid_shape: Rows and columns in which the superpixels lie.
    """

    labels: torch.Tensor
    relations: torch.Tensor
    grid_shape: tuple[int, int]


def pixel_labels(association: torch.Tensor, token_grid: tuple[int, int], image_size: tuple[int, int]) -> torch.Tensor:
    """The superpixel of each pixel: the one with the largest share, shares taken between tokens by bilinear interpolation.

    Interpolating the shares, and not the labels of the tokens, gives smooth boundaries at any size.

    Args:
        association: Shares of the superpixels in each token, ``(N, M)``.
        token_grid: Rows and columns of the N tokens.
        image_size: Height and width in pixels.

    Returns:
        Labels ``(H, W)`` of int64.
    """
    shares = association.float().mT.unflatten(1, token_grid)
    return F.interpolate(shares[None], image_size, mode='bilinear', align_corners=False)[0].argmax(dim=0)


def relations(tokens: torch.Tensor) -> torch.Tensor:
    """Distances ``(M, M)`` between tokens ``(M, C)`` over the mean of those between different ones (equation 10)."""
    distances = torch.cdist(tokens.double(), tokens.double())
    mean = distances.sum() / max(len(tokens) * (len(tokens) - 1), 1)
    return distances / mean.clamp_min(torch.finfo(torch.float64).tiny)


@torch.no_grad()
def superpixels_of(distiller: nn.Module, inputs: torch.Tensor, view: str) -> dict[str, list[Superpixels]]:
    """What a view makes of images, on both sides; the model is left in eval mode.

    Args:
        distiller: A ``RelationDistiller`` that was built with its teacher.
        inputs: Preprocessed images ``(B, 3, H, W)``.
        view: Name of a view that a loss reads.

    Returns:
        The superpixels of each image by side, 'student' and 'teacher'.
    """
    distiller.eval()
    size, view = tuple(inputs.shape[-2:]), distiller.distill.views[view]
    teacher = distiller.teacher(inputs)[view.tap]
    with distiller.student_taps.record(size) as student:
        distiller.student(inputs, mode='tensor')
    sides = {'student': (view.student, student[view.tap]), 'teacher': (view.teacher, teacher)}
    return {name: _of_side(side.associate(feature), size) for name, (side, feature) in sides.items()}


def _of_side(associated: tuple, image_size: tuple[int, int]) -> list[Superpixels]:
    tokens, association, token_grid, grid_shape = associated
    return [
        Superpixels(pixel_labels(shares, token_grid, image_size).cpu(), relations(of_image).cpu(), grid_shape)
        for of_image, shares in zip(tokens, association, strict=True)
    ]
