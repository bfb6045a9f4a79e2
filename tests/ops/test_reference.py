"""The reference, the paper's own form, against the equations element by element; the package's fast forms against it."""

import pytest
import torch
from formulas import dense_superpixels, formula_angle_loss, formula_distance_loss

from serkd_mm import ops
from serkd_mm.ops import reference

LOSSES = ['distance_relation_loss', 'angle_relation_loss']
FORMULAS = {'distance_relation_loss': formula_distance_loss, 'angle_relation_loss': formula_angle_loss}
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def value_and_gradient(function, inputs, *arguments):
    """The result and, summed with random weights, its gradient."""
    inputs = inputs.clone().requires_grad_()
    value = function(inputs, *arguments)
    weights = randn(*value.shape, seed=5, dtype=value.dtype)
    return value.detach(), torch.autograd.grad((value * weights).sum(), inputs)[0]


def assert_equal(actual, expected, dtype=torch.float64):
    """Value and gradient are of ``dtype`` and equal the expected ones up to its rounding, relative to the largest entry."""
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == dtype
        tolerance = TOLERANCES[dtype] * max(other.abs().max().item(), 1e-2)
        torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=tolerance)


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('dtype', TOLERANCES)
@pytest.mark.parametrize(('batch', 'num_tokens', 'channels'), [(1, 2, (3, 3)), (1, 6, (4, 7)), (3, 5, (8, 2))])
def test_relation_losses_equal_equations_10_and_11(name, dtype, batch, num_tokens, channels):
    student, teacher = (
        scale * randn(batch, num_tokens, width, seed=seed, dtype=dtype)
        for seed, (width, scale) in enumerate(zip(channels, (1, 10), strict=True))
    )
    actual = value_and_gradient(getattr(reference, name), student, teacher)
    assert_equal(actual, value_and_gradient(FORMULAS[name], student.double(), teacher.double()), dtype)


@pytest.mark.parametrize('dtype', TOLERANCES)
@pytest.mark.parametrize(('shape', 'cell'), [((1, 3, 4, 4), 2), ((2, 4, 3, 6), 3), ((1, 2, 2, 3), 1), ((2, 5, 6, 6), 2)])
@pytest.mark.parametrize('num_iters', [1, 2])
def test_superpixels_equal_equations_7_and_8(dtype, shape, cell, num_iters):
    grid = randn(*shape, dtype=dtype)
    actual = value_and_gradient(reference.superpixel_tokens, grid, cell, num_iters)
    expected = value_and_gradient(lambda x: dense_superpixels(x, cell, num_iters)[0], grid.double())
    assert actual[0].shape == (shape[0], shape[2] // cell * (shape[3] // cell), shape[1])
    assert_equal(actual, expected, dtype)


@pytest.mark.parametrize('name', LOSSES)
def test_teacher_receives_no_gradient(name):
    student, teacher = (randn(2, 5, 4, seed=seed).requires_grad_() for seed in (0, 1))
    getattr(reference, name)(student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize(('batch', 'num_tokens', 'channels'), [(1, 2, 3), (2, 9, 5), (1, 25, 64)])
def test_fast_losses_equal_reference(name, batch, num_tokens, channels):
    student, teacher = randn(batch, num_tokens, channels), randn(batch, num_tokens, channels + 1, seed=1) ** 3
    expected = value_and_gradient(getattr(reference, name), student, teacher)
    assert_equal(value_and_gradient(getattr(ops, name), student, teacher), expected)


@pytest.mark.parametrize(('size', 'cell', 'num_iters'), [(14, 2, 1), (14, 7, 2), (6, 3, 3), (4, 4, 1), (3, 1, 2)])
@pytest.mark.parametrize('batch', [1, 3])
def test_fast_superpixels_equal_reference(size, cell, num_iters, batch):
    grid = randn(batch, 6, size, size)
    expected = value_and_gradient(reference.superpixel_tokens, grid, cell, num_iters)
    assert_equal(value_and_gradient(ops.superpixel_tokens, grid, cell, num_iters), expected)


def test_defaults_are_those_of_the_fast_superpixels():
    grid = randn(1, 3, 6, 6)
    torch.testing.assert_close(reference.superpixel_tokens(grid), ops.superpixel_tokens(grid))
    assert reference.superpixel_tokens(grid).shape == (1, 9, 3)
