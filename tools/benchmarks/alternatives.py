"""What the relation losses are measured against."""

import torch
import torch.nn.functional as F


def listing_angle_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """``RKdAngle_token`` of the paper's section V-B, as printed there."""

    def extended_rkdangle(vit_feat):
        b, num, _ = vit_feat.shape
        diff = vit_feat.unsqueeze(2) - vit_feat.unsqueeze(1)
        norm_diff = F.normalize(diff, p=2, dim=3)
        norm_diff_flat = norm_diff.view(b * num, num, -1)
        angle_flat = torch.bmm(norm_diff_flat, norm_diff_flat.transpose(1, 2))
        return angle_flat.view(b, num, num, num)

    with torch.no_grad():
        t_angle = extended_rkdangle(teacher).view(-1)
    s_angle = extended_rkdangle(student).view(-1)
    return F.smooth_l1_loss(s_angle, t_angle, reduction='mean')


def listing_distance_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """``RkdDistance_token`` of the paper's section V-B, as printed there."""

    def batch_pdist(e, eps=1e-12):
        e_square = e.pow(2).sum(dim=2)
        prod = torch.einsum('bik,bjk->bij', e, e)
        res = (e_square.unsqueeze(2) + e_square.unsqueeze(1) - 2 * prod).clamp(min=eps)
        res = res.sqrt().clone()
        res[:, torch.arange(res.size(1)), torch.arange(res.size(2))] = 0
        return res

    num = student.shape[1]
    with torch.no_grad():
        t_d = batch_pdist(teacher)
        t_d = t_d / (t_d.sum(dim=(1, 2), keepdim=True) / (num * (num - 1)))
    d = batch_pdist(student)
    d = d / (d.sum(dim=(1, 2), keepdim=True) / (num * (num - 1)))
    return F.smooth_l1_loss(d, t_d, reduction='mean')


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
        found = torch.cdist(features[None], features[None])[0]
        return found / found[found > 0].mean()

    losses = []
    for own, other in zip(student, teacher, strict=True):
        with torch.no_grad():
            target = distances(other)
        losses.append(F.smooth_l1_loss(distances(own), target))
    return torch.stack(losses).mean()
