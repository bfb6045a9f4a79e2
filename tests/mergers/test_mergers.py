import pytest
import torch
from mmpretrain.registry import MODELS
from reference import dense_superpixels

MERGERS = ['SuperpixelMerger', 'AvgPoolMerger', 'MaxPoolMerger', 'IdentityMerger']


def grid_of(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def build(name, **settings):
    return MODELS.build(dict(type=name, **settings))


@pytest.mark.parametrize('name', MERGERS)
@pytest.mark.parametrize('shape', [(14, 14), (7, 7), (8, 5), (2, 3)])
@pytest.mark.parametrize('batch', [1, 3])
def test_every_merger_keeps_the_contract(name, shape, batch):
    grid, merger = grid_of(batch, 6, *shape), build(name)
    merged, association = merger.associate(grid)
    assert torch.equal(merged, merger(grid))
    assert (merged.shape[0], merged.shape[2]) == (batch, 6)
    assert association.shape == (batch, shape[0] * shape[1], merged.shape[1])
    torch.testing.assert_close(association.sum(dim=2), torch.ones(batch, shape[0] * shape[1]))


@pytest.mark.parametrize(('name', 'reduce'), [('AvgPoolMerger', torch.mean), ('MaxPoolMerger', torch.amax)])
@pytest.mark.parametrize(('shape', 'cell'), [((4, 6), (2, 3)), ((5, 7), (2, 2)), ((3, 4), (3, 3)), ((2, 2), (1, 1))])
def test_pooling_reduces_each_cell_of_the_replicated_grid(name, reduce, shape, cell):
    grid = grid_of(2, 5, *shape)
    merged, association = build(name, cell=cell).associate(grid)
    rows, columns = -(-shape[0] // cell[0]), -(-shape[1] // cell[1])
    row = torch.arange(rows * cell[0]).clamp(max=shape[0] - 1)
    column = torch.arange(columns * cell[1]).clamp(max=shape[1] - 1)
    whole = grid[:, :, row][:, :, :, column].unflatten(2, (rows, cell[0])).unflatten(4, (columns, cell[1]))
    torch.testing.assert_close(merged, reduce(whole, dim=(3, 5)).flatten(2).mT)
    for y in range(shape[0]):
        for x in range(shape[1]):
            own = (y // cell[0]) * columns + x // cell[1]
            assert association[:, y * shape[1] + x].argmax(dim=1).tolist() == [own, own]


def test_superpixels_of_a_rectangular_cell_with_iterations():
    grid = grid_of(2, 5, 6, 6)
    merged, association = build('SuperpixelMerger', cell=3, num_iters=2).associate(grid)
    expected, expected_association = dense_superpixels(grid, 3, 2)
    torch.testing.assert_close(merged.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(association.double(), expected_association, rtol=1e-5, atol=1e-5)
    assert build('SuperpixelMerger', cell=(2, 3))(grid).shape == (2, 6, 5)


def test_identity_keeps_tokens_in_order():
    grid = grid_of(2, 5, 3, 4)
    assert torch.equal(build('IdentityMerger')(grid), grid.permute(0, 2, 3, 1).reshape(2, 12, 5))


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
    ],
)
def test_wrong_settings_are_refused_when_built(name, settings):
    with pytest.raises(ValueError, match=r'must be a positive|positive integer'):
        build(name, **settings)
