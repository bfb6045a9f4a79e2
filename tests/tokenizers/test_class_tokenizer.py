import pytest
import torch
from mmpretrain.registry import MODELS

from serkd_mm.tokenizers import ClassTokenizer, Feature


@pytest.mark.parametrize('extra', [1, 2, 5])
def test_class_token_is_a_grid_of_one(extra):
    tokens = torch.randn(2, extra + 9, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    tokenizer = MODELS.build(dict(type='ClassTokenizer'))
    grid = tokenizer(Feature(tokens, (48, 48), extra))
    assert grid.shape == (2, 7, 1, 1)
    assert torch.equal(grid[:, :, 0, 0], tokens[:, 0])
    grid.sum().backward()
    assert (tokens.grad[:, 0] == 1).all()
    assert (tokens.grad[:, 1:] == 0).all()
    assert tokenizer.for_teacher() is tokenizer


def test_models_without_a_class_token_raise():
    with pytest.raises(ValueError, match='has no class token'):
        ClassTokenizer()(Feature(torch.zeros(2, 9, 7), (48, 48), 0))
    with pytest.raises(ValueError, match='does not say how many tokens'):
        ClassTokenizer()(Feature(torch.zeros(2, 10, 7), (48, 48)))
    with pytest.raises(ValueError, match=r'ClassTokenizer reads the tokens .*has shape'):
        ClassTokenizer()(Feature(torch.zeros(2, 7, 3, 3), (48, 48), 1))
