import pytest
import torch

from serkd_mm.mergers import SuperpixelRefiner


def grid_of(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_starts_as_the_identity_and_learns():
    refiner, grid = SuperpixelRefiner(), grid_of(2, 5, 3, 4)
    assert not refiner.state_dict()
    refined = refiner(grid)
    assert torch.equal(refined, grid)
    (refined * grid_of(2, 5, 3, 4)).sum().backward()
    _, pointwise = refiner.network
    assert pointwise.weight.grad.abs().sum() > 0


def test_is_a_depthwise_and_a_pointwise_convolution_over_the_grid():
    refiner, grid = SuperpixelRefiner(), grid_of(2, 5, 3, 4)
    refiner(grid)
    depthwise, pointwise = refiner.network
    with torch.no_grad():
        pointwise.weight.normal_(generator=torch.Generator().manual_seed(1))
        pointwise.bias.fill_(0.5)
    refined = refiner(grid)
    assert refined.shape == grid.shape
    tokens = grid.double().permute(0, 2, 3, 1)
    for row, column in ((0, 0), (1, 2), (2, 3)):
        expected = depthwise.bias.double().clone()
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if 0 <= row + dy < 3 and 0 <= column + dx < 4:
                    weight = depthwise.weight[:, 0, dy + 1, dx + 1].double()
                    expected = expected + weight * tokens[:, row + dy, column + dx]
        expected = tokens[:, row, column] + expected @ pointwise.weight[:, :, 0, 0].double().T + pointwise.bias.double()
        torch.testing.assert_close(refined[:, :, row, column].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_promoted(dtype):
    refiner, grid = SuperpixelRefiner(), grid_of(1, 5, 3, 4).to(dtype)
    assert torch.equal(refiner(grid), grid.float())


def test_grids_of_any_size_share_the_layers():
    refiner = SuperpixelRefiner()
    refiner(grid_of(2, 5, 3, 4))
    network = refiner.network
    assert refiner(grid_of(1, 5, 7, 7)).shape == (1, 5, 7, 7)
    assert refiner.network is network
