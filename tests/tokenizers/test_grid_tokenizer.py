import pytest
import torch

from serkd_mm.tokenizers import GridTokenizer, PatchTokenizer


@pytest.mark.parametrize(('height', 'width'), [(4, 4), (3, 5), (6, 2)])
def test_tokens_and_maps_of_either_order_become_the_same_grid(height, width):
    grid = torch.randn(2, 7, height, width, generator=torch.Generator().manual_seed(0), requires_grad=True)
    size = (16 * height, 16 * width)
    tokenizer = GridTokenizer()
    assert torch.equal(tokenizer(grid, size), grid)
    assert torch.equal(tokenizer(grid.permute(0, 2, 3, 1), size), grid)
    tokens = torch.cat([torch.zeros(2, 1, 7), grid.flatten(2).mT], dim=1)
    assert torch.equal(tokenizer(tokens, size, 1), grid)
    assert torch.equal(tokenizer(tokens, size, 1), PatchTokenizer()(tokens, size, 1))
    tokenizer(grid.permute(0, 2, 3, 1), size).square().sum().backward()
    assert torch.allclose(grid.grad, 2 * grid.detach())


def test_a_map_that_could_be_either_has_its_channels_first():
    cube = torch.randn(2, 5, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(GridTokenizer()(cube), cube)


def test_anything_else_is_told():
    with pytest.raises(ValueError, match='but the tap gave shape'):
        GridTokenizer()(torch.zeros(2, 5))
    with pytest.raises(ValueError, match='make no grid of the proportions'):
        GridTokenizer(num_extra_tokens=0)(torch.zeros(2, 11, 5), (32, 32))
