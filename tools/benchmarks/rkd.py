"""RKD (Park et al., arXiv:1904.05068) as distillation libraries implement it, applied to one image after another."""

import torch
import torch.nn.functional as F


def angle_relation_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compute the angle loss of tokens ``(B, L, C_s)`` and ``(B, L, C_t)``, image by image."""

    def cosines(features):
        difference = features.unsqueeze(0) - features.unsqueeze(1)
        normalized = F.normalize(difference, p=2, dim=2)
        return torch.bmm(normalized, normalized.transpose(1, 2)).view(-1)

    losses = []
    for own, other in zip(student, teacher, strict=True):
        with torch.no_grad():
            target = cosines(other)
        losses.append(F.smooth_l1_loss(cosines(own), target))
    return torch.stack(losses).mean()


def distance_relation_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compute the distance loss of tokens ``(B, L, C_s)`` and ``(B, L, C_t)``, image by image."""

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
