import pytest
import torch
from formulas import dense_superpixels, optional_superpixels
from mmpretrain.registry import MODELS

MERGERS = ['SuperpixelMerger', 'AvgPoolMerger', 'MaxPoolMerger', 'IdentityMerger']


def grid_of(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def build(name, **settings):
    return MODELS.build(dict(type=name, **settings))


@pytest.mark.parametrize('name', MERGERS)
@pytest.mark.parametrize('shape', [(14, 14), (7, 7), (8, 5), (2, 3)])
@pytest.mark.parametrize('batch', [1, 3])
def test_shapes_and_association_of_every_merger(name, shape, batch):
    grid, merger = grid_of(batch, 6, *shape), build(name)
    merged, association = merger.associate(grid)
    assert torch.equal(merged, merger(grid))
    rows, columns = shape if name == 'IdentityMerger' else (-(-shape[0] // 2), -(-shape[1] // 2))
    assert merged.shape == (batch, 6, rows, columns)
    assert association.shape == (batch, shape[0] * shape[1], rows * columns)
    assert association.dtype == merged.dtype == torch.float32
    torch.testing.assert_close(association.sum(dim=2), torch.ones(batch, shape[0] * shape[1]))


@pytest.mark.parametrize(('name', 'reduce'), [('AvgPoolMerger', torch.mean), ('MaxPoolMerger', torch.amax)])
@pytest.mark.parametrize(('shape', 'cell'), [((4, 6), (2, 3)), ((5, 7), (2, 2)), ((3, 4), (3, 3)), ((2, 2), (1, 1))])
def test_pooling_reduces_each_cell_of_the_padded_grid(name, reduce, shape, cell):
    grid = grid_of(2, 5, *shape)
    merged, association = build(name, cell=cell).associate(grid)
    rows, columns = -(-shape[0] // cell[0]), -(-shape[1] // cell[1])
    row = torch.arange(rows * cell[0]).clamp(max=shape[0] - 1)
    column = torch.arange(columns * cell[1]).clamp(max=shape[1] - 1)
    whole = grid[:, :, row][:, :, :, column].unflatten(2, (rows, cell[0])).unflatten(4, (columns, cell[1]))
    torch.testing.assert_close(merged, reduce(whole, dim=(3, 5)))
    for y in range(shape[0]):
        for x in range(shape[1]):
            own = (y // cell[0]) * columns + x // cell[1]
            assert association[:, y * shape[1] + x].argmax(dim=1).tolist() == [own, own]


def test_superpixels_equal_equations_7_and_8():
    grid = grid_of(2, 5, 6, 6)
    merged, association = build('SuperpixelMerger', cell=3, num_iters=2).associate(grid)
    expected, expected_association = dense_superpixels(grid, 3, 2)
    torch.testing.assert_close(merged.flatten(2).mT.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(association.double(), expected_association, rtol=1e-5, atol=1e-5)
    assert build('SuperpixelMerger', cell=(2, 3))(grid).shape == (2, 5, 3, 2)


def test_options_of_superpixels_reach_the_association_and_grid_too():
    options, grid = dict(normalize=True, tau=0.5, exclude_self=True), grid_of(2, 5, 4, 5)
    for settings, cell in ((dict(cell=2), 2), (dict(grid=(3, 2)), ('grid', 3, 2))):
        merger = build('SuperpixelMerger', num_iters=2, **settings, **options)
        merged, association = merger.associate(grid)
        expected, expected_association = optional_superpixels(grid, cell, 2, **options)
        torch.testing.assert_close(merged.flatten(2).mT.double(), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(association.double(), expected_association, rtol=1e-4, atol=1e-5)
        assert torch.equal(merger(grid), merged)
        assert 'normalize=True, tau=0.5, exclude_self=True' in repr(merger)


def test_superpixels_are_means_of_tokens_weighted_by_the_association():
    grid = grid_of(2, 5, 6, 4)
    merged, association = build('SuperpixelMerger', num_iters=2).associate(grid)
    columns = association / association.sum(dim=1, keepdim=True)
    torch.testing.assert_close(merged.flatten(2), grid.flatten(2) @ columns)


def test_detached_association_has_no_gradient():
    grid = grid_of(2, 5, 6, 4).requires_grad_()
    merged, association = build('SuperpixelMerger', detach_association=True).associate(grid)
    assert merged.requires_grad
    assert not association.requires_grad
    assert build('SuperpixelMerger').associate(grid)[1].requires_grad


def test_identity_returns_the_grid():
    grid = grid_of(2, 5, 3, 4)
    merged, association = build('IdentityMerger').associate(grid)
    assert torch.equal(merged, grid)
    assert torch.equal(association, torch.eye(12).expand(2, -1, -1))


@pytest.mark.parametrize('name', MERGERS)
def test_gradients_reach_every_token(name):
    grid = grid_of(2, 5, 5, 5).requires_grad_()
    build(name)(grid).square().sum().backward()
    assert grid.grad.isfinite().all()
    assert grid.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ('name', 'settings'),
    [
        ('SuperpixelMerger', dict(cell=0)),
        ('SuperpixelMerger', dict(cell='2')),
        ('SuperpixelMerger', dict(num_iters=0)),
        ('SuperpixelMerger', dict(num_iters=1.5)),
        ('AvgPoolMerger', dict(cell=-1)),
        ('MaxPoolMerger', dict(cell=(0, 2))),
        ('AvgPoolMerger', dict(grid=0)),
        ('SuperpixelMerger', dict(grid=(2, 2, 2))),
    ],
)
def test_wrong_settings_raise_when_built(name, settings):
    with pytest.raises(ValueError, match=r'must be a positive|positive integer'):
        build(name, **settings)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        *((dict(tau=tau), 'tau must be a positive finite number') for tau in (0, -1.0, float('inf'), True, '1')),
        (dict(normalize=1), 'normalize must be True or False'),
        (dict(exclude_self='no'), 'exclude_self must be True or False'),
    ],
)
def test_wrong_options_raise_when_built(settings, message):
    with pytest.raises(ValueError, match=message):
        build('SuperpixelMerger', **settings)


@pytest.mark.parametrize('name', ['SuperpixelMerger', 'AvgPoolMerger', 'MaxPoolMerger'])
@pytest.mark.parametrize('shape', [(14, 14), (8, 6), (4, 4)])
def test_grid_that_divides_equals_cell(name, shape):
    grid = grid_of(2, 5, *shape)
    by_grid = build(name, grid=(2, shape[1] // 2)).associate(grid)
    by_cell = build(name, cell=(shape[0] // 2, 2)).associate(grid)
    for actual, expected in zip(by_grid, by_cell, strict=True):
        torch.testing.assert_close(actual, expected)
    assert build(name, grid=(2, 2))(grid).shape == (2, 5, 2, 2)


@pytest.mark.parametrize('name', ['SuperpixelMerger', 'AvgPoolMerger', 'MaxPoolMerger'])
def test_grid_merges_any_resolution_to_the_same_number_of_tokens(name):
    merger = build(name, grid=(7, 5))
    for shape in ((14, 14), (7, 5), (9, 8), (24, 24)):
        merged, association = merger.associate(grid_of(2, 3, *shape))
        assert merged.shape == (2, 3, 7, 5)
        torch.testing.assert_close(association.sum(dim=2), torch.ones(2, shape[0] * shape[1]))
        assert (association.sum(dim=1) > 0).all(), 'a merged token has no tokens'
    with pytest.raises(ValueError, match='grid 7x5 is larger than the token grid 6x6'):
        merger(grid_of(2, 3, 6, 6))


def test_superpixels_of_a_grid_that_does_not_divide_the_tokens():
    # Five tokens, two cells: adaptive pooling averages 0 to 2 and 2 to 4. The centers of 2, 3 and 4 lie in the second.
    grid = grid_of(1, 4, 1, 5).double()
    tokens = grid[0].flatten(1).T
    start = torch.stack([tokens[:3].mean(0), tokens[2:].mean(0)])
    association = (tokens @ start.T / 2).softmax(dim=1)
    expected = (association / association.sum(dim=0)).T @ tokens
    merged, actual = build('SuperpixelMerger', grid=(1, 2)).associate(grid)
    torch.testing.assert_close(merged[0, :, 0].T, expected)
    torch.testing.assert_close(actual[0], association)
    assert build('AvgPoolMerger', grid=(1, 2)).associate(grid)[1][0].argmax(dim=1).tolist() == [0, 0, 1, 1, 1]
