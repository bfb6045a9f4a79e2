"""Superpixel tokens against equations 7 and 8 token by token."""

import pytest
import torch
from formulas import dense_superpixels

from serkd_mm.ops import OutputGrid, associate_superpixels, superpixel_grid, superpixel_tokens


def grid_of(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize('cell', [1, 2, 3])
@pytest.mark.parametrize('shape', [(14, 14), (7, 7), (8, 5)])
@pytest.mark.parametrize('num_iters', [1, 2, 3])
def test_tokens_and_association_equal_equations_7_and_8(cell, shape, num_iters):
    grid = 2 * grid_of(2, 6, *shape)
    superpixels, association = associate_superpixels(grid, cell, num_iters)
    assert superpixels.shape == (2, 6, -(-shape[0] // cell), -(-shape[1] // cell))
    merged = superpixels.flatten(2).mT
    expected, expected_association = dense_superpixels(grid, cell, num_iters)
    assert merged.dtype == association.dtype == torch.float32
    torch.testing.assert_close(merged.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(association.double(), expected_association, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(association.sum(dim=2), torch.ones(2, shape[0] * shape[1]))
    assert (association[expected_association == 0] == 0).all()
    assert torch.equal(superpixel_tokens(grid, cell, num_iters), merged)


@pytest.mark.parametrize('num_iters', [1, 2])
def test_gradient_equals_that_of_equations_7_and_8(num_iters):
    grid = grid_of(2, 4, 5, 3, dtype=torch.float64).requires_grad_()
    weights = grid_of(2, 6, 4, seed=1, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((superpixel_tokens(grid, 2, num_iters) * weights).sum(), grid)
    (expected,) = torch.autograd.grad((dense_superpixels(grid, 2, num_iters)[0] * weights).sum(), grid)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize('closeness', [1.0, 1e-6, 0.0], ids=['different tokens', 'close tokens', 'equal tokens'])
@pytest.mark.parametrize('num_iters', [1, 2])
def test_gradient_of_association_equals_that_of_equation_7(num_iters, closeness):
    token = grid_of(2, 4, 1, 1, seed=3, dtype=torch.float64)
    grid = (token + closeness * grid_of(2, 4, 5, 3, dtype=torch.float64)).requires_grad_()
    weights = grid_of(2, 15, 6, seed=1, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((associate_superpixels(grid, 2, num_iters)[1] * weights).sum(), grid)
    (expected,) = torch.autograd.grad((dense_superpixels(grid, 2, num_iters)[1] * weights).sum(), grid)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize('closeness', [1e-3, 1e-6, 0.0])
@pytest.mark.parametrize('size', [1.0, 30.0])
def test_close_and_equal_tokens_have_means_as_superpixels_and_finite_gradients(closeness, size):
    token = size * grid_of(2, 4, 1, 1, seed=3)
    grid = (token + closeness * grid_of(2, 4, 5, 5)).requires_grad_()
    superpixels, association = associate_superpixels(grid, 2, 2)
    (gradient,) = torch.autograd.grad((superpixels * grid_of(2, 4, 3, 3, seed=1)).sum() + association.square().sum(), grid)
    # Superpixels are means of tokens, so they are no farther from the token than the tokens are.
    assert (superpixels - token).abs().max() <= (grid - token).abs().max() + 1e-6 * size
    assert gradient.isfinite().all()


@pytest.mark.parametrize('cell', [(2, 3), OutputGrid(3, 2)])
def test_gradcheck(cell):
    grid = grid_of(1, 3, 4, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: associate_superpixels(x, cell, 2), grid)


def test_gradient_with_detached_association_is_that_of_equation_8():
    grid = grid_of(2, 4, 6, 6, dtype=torch.float64).requires_grad_()
    weights = grid_of(2, 9, 4, seed=1, dtype=torch.float64)
    superpixels, association = associate_superpixels(grid, 2, 1, detach_association=True)
    (gradient,) = torch.autograd.grad((superpixels.flatten(2).mT * weights).sum(), grid)
    columns = association / association.sum(dim=1, keepdim=True)
    torch.testing.assert_close(gradient.flatten(2).mT, columns @ weights)
    assert not association.requires_grad


def test_superpixel_that_no_token_prefers_is_a_mean_of_its_tokens():
    # Scores differ by about 500: probabilities underflow in float32, but their ratios in a column do not.
    grid = 40 * grid_of(1, 8, 6, 6)
    merged = superpixel_tokens(grid, 2)
    expected, expected_association = dense_superpixels(grid, 2, 1)
    assert (expected_association.sum(dim=1) < 1e-45).any()
    torch.testing.assert_close(merged.double(), expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize('scale', [0.0, 1e4])
def test_constant_and_extreme_grids_are_finite(scale):
    grid = (scale * grid_of(2, 4, 5, 5)).requires_grad_()
    merged = superpixel_tokens(grid, 2, 2)
    merged.square().mean().backward()
    assert merged.isfinite().all()
    assert grid.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_promoted_and_autocast_changes_nothing(dtype):
    grid = grid_of(2, 4, 8, 8, dtype=dtype)
    expected = superpixel_tokens(grid.float())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        merged = superpixel_tokens(grid)
    assert merged.dtype == torch.float32
    assert torch.equal(merged, expected)


def test_14_by_14_tokens_have_7_by_7_superpixels_as_in_the_paper():
    assert superpixel_grid(14, 14, 2) == (7, 7)
    assert superpixel_grid(14, 14, 3) == (5, 5)
    assert superpixel_tokens(grid_of(1, 2, 14, 14)).shape == (1, 49, 2)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'cell': 0}, 'positive'),
        ({'cell': (2, -1)}, 'positive'),
        ({'cell': 2.0}, 'positive'),
        ({'cell': (2, 2, 2)}, 'pair'),
        ({'cell': 9}, 'larger than the token grid'),
        ({'num_iters': 0}, 'at least 1'),
    ],
)
def test_wrong_settings_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        superpixel_tokens(grid_of(1, 2, 4, 4), **settings)


def test_tokens_without_a_grid_raise():
    with pytest.raises(ValueError, match='token grid'):
        superpixel_tokens(grid_of(1, 16, 4))
