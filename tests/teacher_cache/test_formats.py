"""Numbers of the teacher as bytes and back."""

import json

import numpy as np
import pytest
import torch
from relations import tokens

from serkd_mm.ops.isometric_triangle import isometric_triangle, tokens_from_triangle
from serkd_mm.teacher_cache import CacheError
from serkd_mm.teacher_cache.formats import (
    BasisFormat,
    DenseFormat,
    MeanFormat,
    TopKFormat,
    TriangleFormat,
    build_format,
)
from serkd_mm.teacher_cache.token_basis import fit_basis


def stored(kind, values):
    """What is read after values have been stored, from the middle of longer records."""
    encoded = kind.encode(values)
    assert encoded.dtype == np.uint8
    assert encoded.shape == (len(values), kind.num_bytes)
    record = np.concatenate(
        [np.full((len(values), 3), 255, np.uint8), encoded, np.zeros((len(values), 5), np.uint8)], axis=1
    )
    decoded = kind.decode(torch.from_numpy(record)[:, 3:-5])
    assert decoded.dtype == torch.float32
    examples = [kind.encode(kind.example(2, torch.Generator().manual_seed(0))) for _ in range(2)]
    assert np.array_equal(*examples)
    assert examples[0].shape == (2, kind.num_bytes)
    return decoded


@pytest.fixture
def basis(tmp_path):
    file = tmp_path / 'basis.npz'
    fit_basis(tokens(500, 24), 12).save(file)
    return file


def test_settings_rebuild_a_format_also_in_a_moved_folder(basis, tmp_path):
    kinds = [
        TriangleFormat(9, 16, 'float32'),
        DenseFormat((9, 16)),
        TopKFormat(10, 3),
        MeanFormat(16),
        BasisFormat((9, 24), basis),
    ]
    moved = tmp_path / 'moved'
    moved.mkdir()
    basis.rename(moved / 'basis.npz')
    for kind in kinds:
        rebuilt = build_format(json.loads(json.dumps(kind.settings)), moved)
        assert (type(rebuilt), rebuilt.settings, rebuilt.num_bytes) == (type(kind), kind.settings, kind.num_bytes)
        assert str(rebuilt) == str(kind)


def test_sizes_and_names():
    assert (TriangleFormat(49, 768).num_bytes, str(TriangleFormat(49, 768))) == (
        2352,
        'isometric triangle of 49 tokens, float16',
    )
    assert DenseFormat((196, 768)).num_bytes == 301056
    assert TopKFormat(1000, 100).num_bytes == 402
    assert TopKFormat(65536, 1).num_bytes == 6
    assert TopKFormat(65537, 1).num_bytes == 8


@pytest.mark.parametrize('dtype', ['float16', 'float32'])
@pytest.mark.parametrize('batch', [1, 4])
def test_triangle_is_that_of_the_operation(dtype, batch):
    points = tokens(batch, 9, 16)
    values = isometric_triangle(points).to(getattr(torch, dtype)).float()
    assert torch.equal(stored(TriangleFormat(9, 16, dtype), points), tokens_from_triangle(values, 9, 16))


@pytest.mark.parametrize('source', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dense_rounds_to_the_dtype_and_no_more(source):
    values = tokens(3, 5, 4, dtype=source)
    assert torch.equal(stored(DenseFormat((5, 4), 'float32'), values), values.float())
    assert torch.equal(stored(DenseFormat((5, 4)), values), values.half().float())
    assert torch.equal(stored(DenseFormat((5, 4)), values[:1]), values[:1].half().float())


def test_predicted_class_survives_rounding():
    logits = torch.tensor([[10.001, 10.002, 10.0, 3], [0, -1e-9, -2e-9, -1], [-10.001, -10.0, -11, -10.002], [5, 5, 5, 1]])
    decoded = stored(DenseFormat((4,)), logits)
    assert decoded.argmax(dim=1).tolist() == logits.argmax(dim=1).tolist() == [1, 0, 1, 0]
    assert ((decoded == decoded.amax(dim=1, keepdim=True)).sum(dim=1) == 1).all()
    torch.testing.assert_close(decoded, logits, rtol=2**-10, atol=1e-7)
    random = tokens(500, 10) / 1000 + 8
    assert torch.equal(stored(DenseFormat((10,)), random).argmax(dim=1), random.argmax(dim=1))
    assert torch.equal(stored(TopKFormat(10, 3), random).argmax(dim=1), random.argmax(dim=1))


@pytest.mark.parametrize('k', [1, 5, 99])
@pytest.mark.parametrize('scale', [0.0, 1e-3, 1.0, 5.0, 200.0])
def test_top_k_is_the_formula(k, scale):
    logits = scale * tokens(6, 100)
    decoded = stored(TopKFormat(100, k), logits)
    assert decoded.isfinite().all()
    for image, read in zip(logits.double(), decoded.double(), strict=True):
        probabilities = (image - image.max()).exp() / (image - image.max()).exp().sum()
        order = sorted(range(100), key=lambda c: -probabilities[c])
        expected = probabilities.clone()
        expected[order[k:]] = probabilities[order[k:]].mean()
        torch.testing.assert_close(read.exp(), expected, rtol=6e-3, atol=1e-6)
        assert read.argmax() == order[0]
        assert (read == read.max()).sum() == 1


def test_top_k_of_many_classes():
    logits = tokens(2, 70_000)
    logits[0, 66_000], logits[1, 255] = 20, 20
    assert stored(TopKFormat(70_000, 2), logits).argmax(dim=1).tolist() == [66_000, 255]


@pytest.mark.parametrize('k', [0, 10, 2.0])
def test_top_k_of_all_or_no_classes_is_refused(k):
    with pytest.raises(ValueError, match='k must be an integer between 1 and 9 of 10 classes'):
        TopKFormat(10, k)


@pytest.mark.parametrize('shape', [(3, 16), (3, 9, 16), (3, 16, 2, 4)])
def test_mean_over_positions(shape):
    values = tokens(*shape)
    expected = {2: values, 3: values.mean(dim=1), 4: values.mean(dim=(2, 3)) if len(shape) == 4 else None}[len(shape)]
    torch.testing.assert_close(stored(MeanFormat(16, 'float32'), values), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(stored(MeanFormat(16), values), expected, rtol=1e-3, atol=1e-6)


def test_basis_format_stores_int8_codes(basis):
    kind, values = BasisFormat((9, 24), basis), tokens(3, 9, 24, seed=5)
    assert kind.num_bytes == 9 * 12
    decoded = stored(kind, values)
    torch.testing.assert_close(decoded, kind.basis.decode(kind.basis.encode(values)))
    assert 0.2 < (decoded - values).square().mean() < 0.7  # Half of the directions of random tokens.


def test_basis_of_other_numbers_is_refused(basis):
    settings = BasisFormat((9, 24), basis).settings
    with pytest.raises(ValueError, match='has 24 channels, but the tokens have 16'):
        BasisFormat((9, 16), basis)
    fit_basis(tokens(500, 24, seed=1), 12).save(basis)
    with pytest.raises(CacheError, match=rf'{basis} is not the basis that the records were written with'):
        build_format(settings, basis.parent)
    basis.unlink()
    with pytest.raises(CacheError, match=rf'{basis}, the basis of stored tokens, cannot be read: .*No such file'):
        build_format(settings, basis.parent)


@pytest.mark.parametrize('kind', [TriangleFormat(9, 16), DenseFormat((9, 16)), MeanFormat(16)])
def test_values_that_are_not_finite_are_refused(kind):
    values = tokens(2, 9, 16)
    values[1, 2, 3] = float('nan')
    with pytest.raises(ValueError, match='are not finite: they hold NaN or infinity'):
        kind.encode(values)


@pytest.mark.parametrize('kind', [DenseFormat((9, 16)), MeanFormat(16)])
def test_overflow_of_float16_says_what_to_use(kind):
    with pytest.raises(ValueError, match=r'1e\+05 is larger than float16 can hold \(65504\). Use --dtype float32'):
        kind.encode(torch.full((2, 9, 16), 1e5))
    assert kind.encode(torch.full((2, 9, 16), 6e4)) is not None


@pytest.mark.parametrize('kind', [TriangleFormat(9, 16), DenseFormat((9, 16)), MeanFormat(16), TopKFormat(16, 2)])
def test_other_shapes_and_dtypes_are_refused(kind):
    with pytest.raises(ValueError, match=f'{type(kind).__name__} stores shape .* of each image, but got '):
        kind.encode(tokens(2, 9, 15) if not isinstance(kind, TopKFormat) else tokens(2, 15))


def test_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match="dtype must be one of float16, float32, but got 'int8'"):
        DenseFormat((3,), 'int8')
