"""Superpixel tokens against a token-by-token evaluation of equations 7 and 8."""

import pytest
import torch
from builders import extra_memory
from reference import dense_superpixels

from serkd_mm.ops import OutputGrid, associate_superpixels, neighbourhoods, superpixel_grid, superpixel_tokens


def grid_of(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize('cell', [1, 2, 3])
@pytest.mark.parametrize('shape', [(14, 14), (7, 7), (8, 5)])
@pytest.mark.parametrize('num_iters', [1, 2, 3])
def test_equals_the_dense_evaluation(cell, shape, num_iters):
    grid = 2 * grid_of(2, 6, *shape)
    merged, association = associate_superpixels(grid, cell, num_iters)
    expected, expected_association = dense_superpixels(grid, cell, num_iters)
    assert merged.dtype == association.dtype == torch.float32
    torch.testing.assert_close(merged.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(association.double(), expected_association, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(association.sum(dim=2), torch.ones(2, shape[0] * shape[1]))
    assert (association[expected_association == 0] == 0).all()
    assert torch.equal(superpixel_tokens(grid, cell, num_iters), merged)


@pytest.mark.parametrize('num_iters', [1, 2])
def test_gradient_equals_that_of_the_dense_evaluation(num_iters):
    grid = grid_of(2, 4, 5, 3, dtype=torch.float64).requires_grad_()
    weights = grid_of(2, 6, 4, seed=1, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((superpixel_tokens(grid, 2, num_iters) * weights).sum(), grid)
    (expected,) = torch.autograd.grad((dense_superpixels(grid, 2, num_iters)[0] * weights).sum(), grid)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize('cell', [(2, 3), OutputGrid(3, 2)])
def test_gradcheck(cell):
    grid = grid_of(1, 3, 4, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: associate_superpixels(x, cell, 2), grid)


@pytest.mark.parametrize('gathered_size', [1, 9 * 12 * 4 * 2])
def test_images_do_not_depend_on_how_many_are_computed_at_a_time(gathered_size, monkeypatch):
    def merged_and_gradient():
        grid = grid_of(3, 4, 8, 6, dtype=torch.float64).requires_grad_()
        merged = superpixel_tokens(grid, 2, 2)
        return merged, torch.autograd.grad(merged.square().sum(), grid)[0]

    expected = merged_and_gradient()
    monkeypatch.setitem(neighbourhoods._GATHERED_SIZE, 'cpu', gathered_size)
    for actual, wanted in zip(merged_and_gradient(), expected, strict=True):
        torch.testing.assert_close(actual, wanted)


@pytest.mark.slow
def test_memory_does_not_hold_an_association_with_every_superpixel():
    # The tokens are 8 MB and their nine associations 5 MB; N x M associations would be 537 MB, several times over.
    prepare = """
from serkd_mm.ops import superpixel_tokens
grid = torch.randn(2, 16, 256, 256).requires_grad_()
superpixel_tokens(grid[:, :, :8, :8], 8).sum().backward()
"""
    assert extra_memory(prepare, 'superpixel_tokens(grid, 8).sum().backward()') < 200


def test_detached_association_leaves_the_gradient_of_equation_8_alone():
    grid = grid_of(2, 4, 6, 6, dtype=torch.float64).requires_grad_()
    weights = grid_of(2, 9, 4, seed=1, dtype=torch.float64)
    merged, association = associate_superpixels(grid, 2, 1, detach_association=True)
    (gradient,) = torch.autograd.grad((merged * weights).sum(), grid)
    columns = association / association.sum(dim=1, keepdim=True)
    torch.testing.assert_close(gradient.flatten(2).mT, columns @ weights)
    assert not association.requires_grad


def test_a_superpixel_that_no_token_prefers_is_still_a_mean_of_its_tokens():
    # Scores differ by some 500: probabilities underflow in float32, but their ratios in a column do not.
    grid = 40 * grid_of(1, 8, 6, 6)
    merged, _ = associate_superpixels(grid, 2)
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


def test_a_layout_made_for_inference_serves_training():
    neighbourhoods._cell_layout.cache_clear()
    with torch.inference_mode():
        superpixel_tokens(grid_of(1, 3, 4, 4))
    grid = grid_of(1, 3, 4, 4).requires_grad_()
    superpixel_tokens(grid).sum().backward()
    assert grid.grad.isfinite().all()


def test_the_paper_s_grid():
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
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        superpixel_tokens(grid_of(1, 2, 4, 4), **settings)


def test_anything_but_a_grid_is_refused():
    with pytest.raises(ValueError, match='token grid'):
        superpixel_tokens(grid_of(1, 16, 4))
