"""Dense logits, the third term of CSKD, against its formula in float64."""

import pytest
import torch
from formulas import formula_dense_logits
from mmpretrain.registry import MODELS


def logits_of(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(**settings):
    return MODELS.build(dict(type='DenseLogitsLoss', **settings))


@pytest.mark.parametrize('shape', [(2, 9, 4), (1, 1, 2), (3, 4, 7)])
@pytest.mark.parametrize('ratio', [1.0, 0.6, 0.1, 0])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_value_and_gradient_equal_the_formula(shape, ratio, dtype):
    student = logits_of(*shape).to(dtype).requires_grad_()
    teacher = logits_of(*shape, seed=1).to(dtype).requires_grad_()
    loss = build(ratio=ratio, loss_weight=0.5)(student, teacher)
    expected = 0.5 * formula_dense_logits(student, teacher.detach(), ratio)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-7)
    loss.backward()
    (gradient,) = torch.autograd.grad(expected, student)
    assert teacher.grad is None
    torch.testing.assert_close(student.grad, gradient, rtol=1e-4 if dtype == torch.float32 else 1e-2, atol=1e-7)


def test_ratio_moves_from_the_class_of_each_position_to_that_of_the_image():
    teacher = torch.tensor([[[3.0, 0.0], [3.0, 0.0], [0.0, 1.0]]])  # The mean is (2, 1/3).
    student = torch.zeros(1, 3, 2, requires_grad=True)
    loss = build(ratio=dict(type='Linear', begin=1.0, end=0.0))
    assert 'ratio=Linear(1 to 0)' in loss.extra_repr()
    for progress, of_last in [(0.0, 1), (0.3, 1), (0.5, 0), (1.0, 0)]:
        loss.set_progress(progress)
        assert loss.ratio == pytest.approx(1 - progress)
        (gradient,) = torch.autograd.grad(loss(student, teacher), student)
        assert gradient.argmin(dim=2).tolist() == [[0, 0, of_last]], progress


@pytest.mark.parametrize('ratio', [-0.1, 1.1, None, 'half', dict(type='Linear', begin=2.0, end=0.0)])
def test_wrong_ratios_raise_when_built(ratio):
    with pytest.raises(ValueError, match=r'ratio(\.begin)? must be'):
        build(ratio=ratio)


@pytest.mark.parametrize('shape', [(2, 9, 5), (2, 4, 4), (2, 4)])
def test_other_shapes_raise(shape):
    with pytest.raises(ValueError, match=r'DenseLogitsLoss compares logits \(B, L, K\)'):
        build()(logits_of(2, 9, 4), logits_of(*shape))
