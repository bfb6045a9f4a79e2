import pytest
import torch

from serkd_mm.tokenizers import Feature, GridTokenizer, PatchTokenizer


@pytest.mark.parametrize(('height', 'width'), [(4, 4), (3, 5), (6, 2)])
def test_tokens_and_maps_of_either_layout_become_the_same_grid(height, width):
    grid = torch.randn(2, 7, height, width, generator=torch.Generator().manual_seed(0), requires_grad=True)
    size = (16 * height, 16 * width)
    channels_last = grid.permute(0, 2, 3, 1)
    tokenizer = GridTokenizer()
    assert torch.equal(tokenizer(Feature(grid, size)), grid)
    assert torch.equal(tokenizer(Feature(channels_last, size)), grid)
    tokens = torch.cat([torch.zeros(2, 1, 7), grid.flatten(2).mT], dim=1)
    assert torch.equal(tokenizer(Feature(tokens, size, 1)), grid)
    assert torch.equal(tokenizer(Feature(tokens, size, 1)), PatchTokenizer()(Feature(tokens, size, 1)))
    tokenizer(Feature(channels_last, size)).square().sum().backward()
    assert torch.allclose(grid.grad, 2 * grid.detach())


def test_ambiguous_map_has_its_channels_first():
    cube = torch.randn(2, 5, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(GridTokenizer()(Feature(cube)), cube)


def test_other_features_raise():
    with pytest.raises(ValueError, match='but the tap has shape'):
        GridTokenizer()(Feature(torch.zeros(2, 5)))
    with pytest.raises(ValueError, match='do not form a grid with the aspect ratio'):
        GridTokenizer(num_extra_tokens=0)(Feature(torch.zeros(2, 11, 5), (32, 32)))


def test_teacher_has_the_same_tokenizer():
    tokenizer = GridTokenizer()
    assert tokenizer.for_teacher() is tokenizer
