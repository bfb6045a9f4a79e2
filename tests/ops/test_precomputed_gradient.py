"""The gradient of a relation loss is a constant, and differentiating it raises."""

import pytest
import torch

from serkd_mm.ops import angle_relation_loss, distance_relation_loss


@pytest.mark.parametrize('loss', [distance_relation_loss, angle_relation_loss])
def test_the_gradient_cannot_be_differentiated(loss):
    # In a sum with another loss, the second derivatives of the relation loss would silently be missing.
    student = torch.randn(2, 5, 3, requires_grad=True)
    value = loss(student, torch.randn(2, 5, 4)) + student.pow(3).sum()
    (expected,) = torch.autograd.grad(value, student, retain_graph=True)
    (gradient,) = torch.autograd.grad(value, student, create_graph=True)
    assert torch.equal(gradient, expected)
    penalty = gradient.square().sum()
    with pytest.raises(RuntimeError, match='differentiable once'):
        penalty.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match='differentiable once'):
        torch.autograd.grad(penalty, student)
