import torch
from builders import distiller_config

from serkd_mm.distillers.taps import Feature
from serkd_mm.distillers.views import View


def test_the_teacher_s_side_carries_no_graph():
    view = View(distiller_config().views.superpixels, 'model.views.superpixels')
    sides = [Feature(torch.randn(2, 18, 8).requires_grad_(), (32, 32), 2) for _ in range(2)]
    student_tokens, teacher_tokens = view(*sides)
    assert student_tokens.shape == teacher_tokens.shape == (2, 4, 8)
    assert student_tokens.requires_grad
    assert not teacher_tokens.requires_grad
