import pytest
import torch
from mmpretrain.registry import MODELS

import serkd_mm  # noqa: F401

TOKENIZERS = [dict(type='PoolTokenizer', mode='avg'), dict(type='PoolTokenizer', mode='max'), dict(type='ConvTokenizer')]


def feature_map(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def build(config, **settings):
    return MODELS.build(dict(config, **settings))


def windows_of(feature, window):
    """Windows of a map that is padded by replication, ``(B, C, rows, columns, window height, window width)``."""
    (height, width), (window_height, window_width) = feature.shape[-2:], window
    rows, columns = -(-height // window_height), -(-width // window_width)
    row = torch.arange(rows * window_height).clamp(max=height - 1)
    column = torch.arange(columns * window_width).clamp(max=width - 1)
    whole = feature[:, :, row][:, :, :, column]
    return whole.unflatten(2, (rows, window_height)).unflatten(4, (columns, window_width)).transpose(3, 4)


@pytest.mark.parametrize('config', TOKENIZERS)
@pytest.mark.parametrize(('size', 'window'), [(56, 4), (28, 2), (14, 1)])
def test_the_paper_s_stages_all_give_14_by_14_tokens(config, size, window):
    assert build(config, window=window)(feature_map(2, 8, size, size)).shape == (2, 8, 14, 14)


@pytest.mark.parametrize('config', TOKENIZERS)
@pytest.mark.parametrize(('shape', 'window'), [((8, 8), (4, 4)), ((7, 9), (2, 4)), ((3, 3), (1, 1)), ((5, 4), (5, 1))])
@pytest.mark.parametrize('batch', [1, 3])
def test_equals_equation_9_window_by_window(config, shape, window, batch):
    feature = feature_map(batch, 6, *shape)
    tokens = build(config, window=window)(feature)
    windows = windows_of(feature.double(), window)
    expected = windows.amax((4, 5)) if config.get('mode') == 'max' else windows.mean((4, 5))  # convolutions start as means
    torch.testing.assert_close(tokens.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_convolution_learns_and_is_made_once():
    tokenizer = build(dict(type='ConvTokenizer', window=2))
    assert not tokenizer.state_dict()
    feature = feature_map(2, 3, 4, 6)
    first = tokenizer(feature)
    conv = tokenizer.conv
    with torch.no_grad():
        conv.weight.normal_(generator=torch.Generator().manual_seed(1))
    tokens = tokenizer(feature)
    assert tokenizer.conv is conv
    expected = torch.einsum('bcrqhw,dchw->bdrq', windows_of(feature.double(), (2, 2)), conv.weight.double())
    torch.testing.assert_close(tokens.double(), expected + conv.bias.double()[:, None, None], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(tokens, first)
    tokens.sum().backward()
    assert conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize('config', TOKENIZERS)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
def test_formats(config, dtype):
    feature = feature_map(1, 3, 4, 4).to(dtype).requires_grad_()
    tokenizer = build(config, window=2)
    tokenizer.to(torch.float64 if dtype is torch.float64 else torch.float32)
    tokenizer(feature).sum().backward()
    assert feature.grad.isfinite().all()


@pytest.mark.parametrize('config', TOKENIZERS)
def test_wrong_windows_modes_and_features_are_refused(config):
    for window in (0, (2, 2, 2), 1.5):
        with pytest.raises(ValueError, match='positive'):
            build(config, window=window)
    with pytest.raises(ValueError, match='feature map'):
        build(config)(feature_map(2, 16, 8))
    with pytest.raises(ValueError, match='larger than'):
        build(config, window=9)(feature_map(2, 3, 8, 8))
    with pytest.raises(ValueError, match="'avg' or 'max'"):
        build(dict(type='PoolTokenizer', mode='mean'))
