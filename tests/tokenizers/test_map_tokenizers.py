import pytest
import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS

from serkd_mm.tokenizers import ConvTokenizer, Feature, PoolTokenizer

POOLS = [dict(type='PoolTokenizer', mode='avg'), dict(type='PoolTokenizer', mode='max')]
TOKENIZERS = [*POOLS, dict(type='ConvTokenizer')]
PAPER_STAGES = [(56, 4), (28, 2), (14, 1)]  # Sizes of the maps, and the windows that leave 14 x 14 tokens.


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


def randomize(conv):
    """Replace the weights of a convolution, which starts as average pooling."""
    with torch.no_grad():
        conv.weight.normal_(generator=torch.Generator().manual_seed(1))
        conv.bias.fill_(0.5)


@pytest.mark.parametrize('config', TOKENIZERS)
@pytest.mark.parametrize(('size', 'window'), PAPER_STAGES)
def test_stages_of_the_paper_have_14_by_14_tokens(config, size, window):
    assert build(config, window=window)(Feature(feature_map(2, 8, size, size))).shape == (2, 8, 14, 14)


@pytest.mark.parametrize('config', TOKENIZERS)
@pytest.mark.parametrize(('size', 'window'), PAPER_STAGES)
def test_grid_equals_window_on_the_stages_of_the_paper(config, size, window):
    feature = Feature(feature_map(2, 8, size, size))
    tokens = build(config, grid=14)(feature)
    assert tokens.shape == (2, 8, 14, 14)
    torch.testing.assert_close(tokens, build(config, window=window)(feature))


@pytest.mark.parametrize('config', TOKENIZERS)
@pytest.mark.parametrize(('shape', 'window'), [((8, 8), (4, 4)), ((7, 9), (2, 4)), ((3, 3), (1, 1)), ((5, 4), (5, 1))])
@pytest.mark.parametrize('batch', [1, 3])
def test_tokens_equal_equation_9_window_by_window(config, shape, window, batch):
    feature = feature_map(batch, 6, *shape)
    tokens = build(config, window=window)(Feature(feature))
    windows = windows_of(feature.double(), window)
    expected = windows.amax((4, 5)) if config.get('mode') == 'max' else windows.mean((4, 5))  # Convolutions start as means.
    torch.testing.assert_close(tokens.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('config', TOKENIZERS)
def test_rectangular_grid_equals_equation_9_window_by_window(config):
    feature = feature_map(2, 6, 6, 20)
    windows = windows_of(feature.double(), (2, 4))
    expected = windows.amax((4, 5)) if config.get('mode') == 'max' else windows.mean((4, 5))
    tokens = build(config, grid=(3, 5))(Feature(feature))
    torch.testing.assert_close(tokens.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(('mode', 'pool'), [('avg', F.adaptive_avg_pool2d), ('max', F.adaptive_max_pool2d)])
@pytest.mark.parametrize('shape', [(15, 20), (28, 17), (14, 27)])
def test_pooling_to_a_grid_that_does_not_divide_the_map_is_adaptive(mode, pool, shape):
    feature = feature_map(2, 3, *shape).requires_grad_()
    tokens = PoolTokenizer(mode, grid=14)(Feature(feature))
    assert tokens.shape == (2, 3, 14, 14)
    torch.testing.assert_close(tokens, pool(feature, (14, 14)))
    (gradient,) = torch.autograd.grad(tokens.square().sum(), feature)
    torch.testing.assert_close(gradient, torch.autograd.grad(pool(feature, (14, 14)).square().sum(), feature)[0])


@pytest.mark.parametrize('config', POOLS)
@pytest.mark.parametrize('shape', [(13, 14), (14, 13), (7, 7)])
def test_pooling_to_a_grid_larger_than_the_map_raises(config, shape):
    with pytest.raises(ValueError, match=f'grid 14x14 is larger than the token grid {shape[0]}x{shape[1]}'):
        build(config, grid=14)(Feature(feature_map(2, 3, *shape)))


def test_convolution_learns_and_is_built_once():
    tokenizer = ConvTokenizer(window=2)
    assert not tokenizer.state_dict()
    feature = feature_map(2, 3, 4, 6)
    first = tokenizer(Feature(feature))
    conv = tokenizer.conv
    randomize(conv)
    tokens = tokenizer(Feature(feature))
    assert tokenizer.conv is conv
    expected = torch.einsum('bcrqhw,dchw->bdrq', windows_of(feature.double(), (2, 2)), conv.weight.double())
    torch.testing.assert_close(tokens.double(), expected + conv.bias.double()[:, None, None], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(tokens, first)
    tokens.sum().backward()
    assert conv.weight.grad.abs().sum() > 0
    assert tokenizer(Feature(feature_map(1, 3, 7, 9))).shape == (1, 3, 4, 5)  # A window fits maps of any size.


@pytest.mark.parametrize(('size', 'window'), PAPER_STAGES)
def test_window_of_a_convolution_follows_from_grid_and_map(size, window):
    tokenizer = ConvTokenizer(grid=14)
    feature = Feature(feature_map(2, 3, size, size))
    tokenizer(feature)
    conv = tokenizer.conv
    assert conv.kernel_size == conv.stride == (window, window)
    randomize(conv)
    expected = torch.einsum('bcrqhw,dchw->bdrq', windows_of(feature.tensor, (window, window)), conv.weight)
    torch.testing.assert_close(tokenizer(feature), expected + 0.5, rtol=1e-4, atol=1e-4)
    assert tokenizer.conv is conv


@pytest.mark.parametrize('shape', [(15, 14), (14, 29), (13, 13), (7, 7)])
def test_convolution_with_a_grid_that_does_not_divide_the_map_raises(shape):
    tokenizer = ConvTokenizer(grid=14)
    with pytest.raises(ValueError, match=f'grid 14x14 does not divide the map {shape[0]}x{shape[1]}'):
        tokenizer(Feature(feature_map(2, 3, *shape)))
    assert tokenizer.conv is None


def test_convolution_raises_for_a_later_map_of_another_size():
    tokenizer = ConvTokenizer(grid=14)
    tokenizer(Feature(feature_map(2, 3, 28, 28)))
    for shape in ((3, 56, 56), (3, 14, 14), (3, 28, 14), (5, 28, 28)):
        with pytest.raises(ValueError, match=r'ConvTokenizer\.conv was built for \(3, 2, 2\)'):
            tokenizer(Feature(feature_map(2, *shape)))
    with pytest.raises(ValueError, match='does not divide the map 30x30'):
        tokenizer(Feature(feature_map(2, 3, 30, 30)))
    assert tokenizer(Feature(feature_map(1, 3, 28, 28))).shape == (1, 3, 14, 14)


@pytest.mark.parametrize(
    ('settings', 'shape'),
    [
        (dict(window=2), (8, 12)),
        (dict(window=(2, 4)), (7, 9)),
        (dict(grid=4), (8, 12)),
        (dict(grid=(2, 3)), (4, 12)),
        (dict(grid=14), (14, 14)),
    ],
)
def test_teacher_of_a_convolution_pools_with_the_same_windows(settings, shape):
    student, feature = ConvTokenizer(**settings), feature_map(2, 3, *shape)
    teacher = student.for_teacher()
    assert isinstance(teacher, PoolTokenizer)
    assert teacher.window == student.window
    initial = student(Feature(feature))
    torch.testing.assert_close(teacher(Feature(feature)), initial, rtol=1e-5, atol=1e-6)
    randomize(student.conv)
    torch.testing.assert_close(teacher(Feature(feature)), initial, rtol=1e-5, atol=1e-6)
    assert not list(teacher.parameters())
    assert not teacher.state_dict()


@pytest.mark.parametrize('config', POOLS)
@pytest.mark.parametrize('settings', [dict(window=2), dict(grid=7)])
def test_pooling_is_the_tokenizer_of_the_teacher_too(config, settings):
    tokenizer = build(config, **settings)
    assert tokenizer.for_teacher() is tokenizer
    tokenizer(Feature(feature_map(2, 3, 14, 14)))
    assert not list(tokenizer.parameters())


@pytest.mark.parametrize('config', TOKENIZERS)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
def test_dtypes(config, dtype):
    feature = feature_map(1, 3, 4, 4).to(dtype).requires_grad_()
    tokenizer = build(config, window=2)
    tokenizer.to(torch.float64 if dtype is torch.float64 else torch.float32)
    tokenizer(Feature(feature)).sum().backward()
    assert feature.grad.isfinite().all()


@pytest.mark.parametrize('config', TOKENIZERS)
def test_wrong_windows_grids_modes_and_features_raise(config):
    for window in (0, (2, 2, 2), 1.5):
        with pytest.raises(ValueError, match='positive'):
            build(config, window=window)
        with pytest.raises(ValueError, match='grid must be a positive'):
            build(config, grid=window)
    with pytest.raises(ValueError, match='feature map'):
        build(config)(Feature(feature_map(2, 16, 8)))
    with pytest.raises(ValueError, match='larger than'):
        build(config, window=9)(Feature(feature_map(2, 3, 8, 8)))
    with pytest.raises(ValueError, match="'avg' or 'max'"):
        build(dict(type='PoolTokenizer', mode='mean'))


@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_a_grid_that_divides_the_map_needs_no_adaptive_pooling(mode):
    # Its gradient on CUDA is not deterministic, and torch refuses it if that is asked for.
    feature = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0), requires_grad=True)
    tokens = PoolTokenizer(mode, grid=(4, 6))(Feature(feature))
    assert 'Adaptive' not in type(tokens.grad_fn).__name__
    overlapping = PoolTokenizer(mode, grid=5)(Feature(feature))
    assert 'Adaptive' in type(overlapping.grad_fn).__name__
