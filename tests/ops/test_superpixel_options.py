"""The options of superpixels that the paper does not have, against their definition token by token."""

import pytest
import torch
from formulas import dense_superpixels, optional_superpixels

from serkd_mm.ops import OutputGrid, associate_superpixels, superpixel_tokens

OPTIONS = [
    dict(normalize=True),
    dict(tau=2.5),
    dict(exclude_self=True),
    dict(normalize=True, tau=0.3, exclude_self=True),
]


def grid_of(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def name_of(options):
    return ' '.join(options) if isinstance(options, dict) else None


def cell_of(cell):
    return OutputGrid(*cell[1:]) if isinstance(cell, tuple) else cell


@pytest.mark.parametrize('options', OPTIONS, ids=name_of)
@pytest.mark.parametrize(
    ('shape', 'cell', 'num_iters'),
    [((6, 6), 2, 1), ((6, 4), 2, 3), ((5, 7), 2, 2), ((7, 4), 3, 1), ((4, 3), 1, 2), ((5, 7), ('grid', 2, 3), 2)],
)
def test_options_equal_their_definition(options, shape, cell, num_iters):
    grid = 2 * grid_of(2, 6, *shape) + 1
    superpixels, association = associate_superpixels(grid, cell_of(cell), num_iters, **options)
    expected, expected_association = optional_superpixels(grid, cell, num_iters, **options)
    torch.testing.assert_close(superpixels.flatten(2).mT, expected)
    torch.testing.assert_close(association, expected_association)
    assert torch.equal(superpixel_tokens(grid, cell_of(cell), num_iters, **options), superpixels.flatten(2).mT)
    alone = associate_superpixels(grid[:1], cell_of(cell), num_iters, **options)[1]
    torch.testing.assert_close(alone, association[:1])
    paper = associate_superpixels(grid, cell_of(cell), num_iters)[1]
    assert (association - paper).abs().max() > 1e-2 or (cell == 1 and options == dict(exclude_self=True))


def test_definition_without_options_is_that_of_the_paper():
    grid = grid_of(2, 4, 5, 3)
    for actual, expected in zip(optional_superpixels(grid, 2, 2), dense_superpixels(grid, 2, 2), strict=True):
        torch.testing.assert_close(actual, expected)
    settings = dict(normalize=False, tau=1.0, exclude_self=False)
    assert torch.equal(superpixel_tokens(grid, 2, 2, **settings), superpixel_tokens(grid, 2, 2))


@pytest.mark.parametrize('options', OPTIONS, ids=name_of)
def test_gradients_equal_those_of_the_definition(options):
    grid = grid_of(1, 4, 4, 3).requires_grad_()
    weights = grid_of(1, 4, 4, seed=1), grid_of(1, 12, 4, seed=2)
    gradients = []
    for superpixels, association in (
        (superpixel_tokens(grid, 2, 2, **options), associate_superpixels(grid, 2, 2, **options)[1]),
        optional_superpixels(grid, 2, 2, **options),
    ):
        loss = (superpixels * weights[0]).sum() + (association * weights[1]).sum()
        gradients += torch.autograd.grad(loss, grid)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize('cell', [2, OutputGrid(3, 2)])
def test_gradcheck(cell):
    grid = grid_of(1, 3, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: associate_superpixels(x, cell, 2, **OPTIONS[-1]), grid)


@pytest.mark.parametrize('options', OPTIONS, ids=name_of)
@pytest.mark.parametrize('closeness', [1e-6, 0.0])
@pytest.mark.parametrize('size', [0.0, 1.0, 100.0])
def test_close_and_equal_tokens_have_means_as_superpixels_and_finite_gradients(options, closeness, size):
    token = size * grid_of(2, 4, 1, 1, seed=3, dtype=torch.float32)
    grid = (token + closeness * grid_of(2, 4, 5, 5, dtype=torch.float32)).requires_grad_()
    superpixels, association = associate_superpixels(grid, 2, 3, **options)
    (gradient,) = torch.autograd.grad((superpixels * grid_of(2, 4, 3, 3, seed=1)).sum() + association.square().sum(), grid)
    assert (superpixels - token).abs().max() <= (grid - token).abs().max() + 1e-6 * size
    assert gradient.isfinite().all()


def test_token_that_is_nearly_a_whole_superpixel_is_compared_with_the_exact_mean_of_the_others():
    # After an iteration the third of four tokens is all of the second superpixel but less than 1e-8: 1 in float32, so that
    # the center without this token's share, a difference, would be 0/0.
    tokens = torch.tensor([[8.0, 1.0], [8.0, -1.0], [0.1, 3.0], [8.0, 0.5]])
    grid = tokens.T.reshape(1, 2, 1, 4)
    association = associate_superpixels(grid.double(), (1, 2), 1, exclude_self=True)[1][0]
    others = (association / association.sum(dim=0))[[0, 1, 3], 1].sum()
    assert 0 < others < 1e-8
    actual = associate_superpixels(grid, (1, 2), 2, exclude_self=True)
    expected = associate_superpixels(grid.double(), (1, 2), 2, exclude_self=True)
    for value, exact in zip(actual, expected, strict=True):
        torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('scale', [40.0, 1e4])
@pytest.mark.parametrize('cell', [1, 2])
def test_saturated_associations_are_finite_where_superpixels_are_single_tokens(scale, cell):
    grid = (scale * grid_of(2, 8, 6, 6, dtype=torch.float32)).requires_grad_()
    superpixels, association = associate_superpixels(grid, cell, 4, exclude_self=True)
    (gradient,) = torch.autograd.grad(superpixels.square().mean() + association.square().sum(), grid)
    assert superpixels.isfinite().all()
    assert gradient.isfinite().all()
    torch.testing.assert_close(association.sum(dim=2), torch.ones(2, 36))


def test_normalized_association_ignores_the_scale_and_offset_of_each_token():
    grid, scales, offsets = grid_of(1, 64, 6, 6), 10 * grid_of(1, 1, 6, 6, seed=1).exp(), 5 * grid_of(1, 1, 6, 6, seed=2)
    expected = associate_superpixels(grid, 2, 1, normalize=True)[1]
    actual = associate_superpixels(grid * scales + offsets, 2, 1, normalize=True)[1]
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_promoted_and_autocast_changes_nothing(dtype):
    grid = grid_of(2, 4, 8, 8, dtype=dtype)
    expected = superpixel_tokens(grid.float(), 2, 2, **OPTIONS[-1])
    with torch.autocast('cpu', dtype=torch.bfloat16):
        merged = superpixel_tokens(grid, 2, 2, **OPTIONS[-1])
    assert merged.dtype == torch.float32
    assert torch.equal(merged, expected)


@pytest.mark.parametrize('tau', [0.0, -1.0, float('inf'), float('nan')])
def test_wrong_temperature_raises(tau):
    with pytest.raises(ValueError, match='tau must be a positive finite number'):
        superpixel_tokens(grid_of(1, 2, 4, 4), tau=tau)
