"""What the relation losses are measured against: the paper's listing, which the tests hold, and the libraries' RKD."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.append(str(Path(__file__).resolve().parents[2] / 'tests'))
from reference import listing_angle_loss, listing_distance_loss

__all__ = ['listing_angle_loss', 'listing_distance_loss', 'rkd_angle_loss', 'rkd_distance_loss']


def rkd_angle_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """RKD's angle loss as distillation libraries have it, for the tokens of one image, called image by image."""

    def cosines(features):
        difference = features.unsqueeze(0) - features.unsqueeze(1)
        normalised = F.normalize(difference, p=2, dim=2)
        return torch.bmm(normalised, normalised.transpose(1, 2)).view(-1)

    losses = []
    for own, other in zip(student, teacher, strict=True):
        with torch.no_grad():
            target = cosines(other)
        losses.append(F.smooth_l1_loss(cosines(own), target))
    return torch.stack(losses).mean()


def rkd_distance_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """RKD's distance loss as distillation libraries have it, for the tokens of one image, called image by image."""

    def distances(features):
        squared = features.square().sum(dim=1)
        found = (squared[:, None] + squared[None] - 2 * features @ features.T).clamp(min=1e-12).sqrt().clone()
        found.fill_diagonal_(0)
        return found / found[found > 0].mean()

    losses = []
    for own, other in zip(student, teacher, strict=True):
        with torch.no_grad():
            target = distances(other)
        losses.append(F.smooth_l1_loss(distances(own), target))
    return torch.stack(losses).mean()
