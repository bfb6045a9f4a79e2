import pytest
import torch
from mmpretrain.registry import MODELS

from serkd_mm.tokenizers import Feature, PatchTokenizer


def tokens(count, extra=0):
    """Tokens whose first channel is the number of the patch; extra tokens come first and are negative."""
    numbers = torch.cat([-torch.arange(1, extra + 1), torch.arange(count)]).float()
    return torch.stack([numbers, numbers + 0.5], dim=1).expand(2, -1, -1)


@pytest.mark.parametrize('extra', [0, 1, 2, 5])
@pytest.mark.parametrize('source', ['config', 'backbone', 'aspect ratio'])
def test_patches_lie_as_in_the_image(extra, source):
    tokenizer = MODELS.build(dict(type='PatchTokenizer', num_extra_tokens=extra if source == 'config' else None))
    grid = tokenizer(Feature(tokens(196, extra), (224, 224), extra if source == 'backbone' else None))
    assert grid.shape == (2, 2, 14, 14)
    assert torch.equal(grid[0, 0], torch.arange(196.0).view(14, 14))


@pytest.mark.parametrize(
    ('image_size', 'shape'), [((224, 320), (14, 20)), ((320, 224), (20, 14)), ((16, 240), (1, 15)), ((250, 130), (15, 8))]
)
def test_images_that_are_not_square(image_size, shape):
    grid = PatchTokenizer()(Feature(tokens(shape[0] * shape[1], 2), image_size, 2))
    assert grid.shape[-2:] == shape
    assert torch.equal(grid[0, 0].flatten(), torch.arange(float(shape[0] * shape[1])))


def test_config_overrides_backbone_and_gradient_reaches_patches_only():
    feature = tokens(9, 1).clone().requires_grad_()
    grid = PatchTokenizer(num_extra_tokens=1)(Feature(feature, (3, 3), 4))
    grid.sum().backward()
    assert grid.shape == (2, 2, 3, 3)
    assert (feature.grad[:, 1:] == 1).all()
    assert (feature.grad[:, 0] == 0).all()


@pytest.mark.parametrize('count', [197, 1])
def test_tokens_that_form_no_grid_raise(count):
    with pytest.raises(ValueError, match='num_extra_tokens'):
        PatchTokenizer()(Feature(tokens(count), (224, 224), 0 if count > 1 else 1))


def test_feature_maps_and_negative_numbers_raise():
    with pytest.raises(ValueError, match='transformer block'):
        PatchTokenizer()(Feature(torch.zeros(2, 8, 7, 7)))
    with pytest.raises(ValueError, match='must not be negative'):
        PatchTokenizer(num_extra_tokens=-1)


def test_teacher_has_the_same_tokenizer():
    tokenizer = PatchTokenizer()
    assert tokenizer.for_teacher() is tokenizer


def test_a_square_image_has_a_square_grid():
    # Of 14 x 14 patches without a class token, one less would be 13 x 15.
    tokens = torch.zeros(2, 196, 5)
    assert PatchTokenizer()(Feature(tokens, (224, 224), 0)).shape == (2, 5, 14, 14)
    with pytest.raises(ValueError, match='196 tokens, 1 of them extra, do not form a grid'):
        PatchTokenizer()(Feature(tokens, (224, 224), 1))
    assert PatchTokenizer()(Feature(tokens, (208, 240), 1)).shape == (2, 5, 13, 15)
