"""The sums over angles, block by block and by the Triton kernel: values, NaN, and which of the two computes them."""

import json
import warnings
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from builders import REPOSITORY, run_python
from fake_devices import fake_devices
from mmengine.utils import digit_version
from relations import (
    DEVICE,
    LOSSES,
    NEEDS_TRITON,
    assert_close,
    squared_and_inverse_distances,
    tokens,
    triton_angle_loss,
    value_and_gradient,
)

from serkd_mm.ops import angle_relation, angle_relation_loss

STATISTICS = REPOSITORY / 'tools' / 'benchmarks' / 'kernel_statistics.py'
# Tiles of the kernel: several programs and a narrower rest; one program for all tokens.
TILES = [((8, 4), (4, 8)), ((64, 8), (32, 8))]


@NEEDS_TRITON
@pytest.mark.parametrize('tiles', TILES)
@pytest.mark.parametrize('num_tokens', [3, 16, 17])
def test_triton_loss_does_not_depend_on_tiles(tiles, num_tokens, monkeypatch):
    from serkd_mm.ops import angle_relation_triton  # noqa: PLC0415 (Triton is not installed everywhere)

    monkeypatch.setattr(angle_relation_triton, '_TILES', tiles)
    student, teacher = tokens(2, num_tokens, 8), tokens(2, num_tokens, 5, seed=1)
    expected = value_and_gradient(angle_relation_loss, student, teacher)
    for actual, wanted in zip(value_and_gradient(triton_angle_loss, student, teacher), expected, strict=True):
        assert_close(actual, wanted, rtol=1e-6)


@NEEDS_TRITON
def test_float64_does_not_use_triton():
    student, teacher = tokens(2, 5, 3, dtype=torch.float64), tokens(2, 5, 4, seed=1, dtype=torch.float64)
    assert torch.equal(triton_angle_loss(student, teacher), angle_relation_loss(student, teacher))


def test_environment_variable_selects_triton(monkeypatch):
    squared = tokens(1, 3, 3)
    monkeypatch.delenv('SERKD_MM_TRITON', raising=False)
    assert not angle_relation.use_triton(squared)
    for setting, expected in {'auto': False, '0': False, '1': True}.items():
        monkeypatch.setenv('SERKD_MM_TRITON', setting)
        assert angle_relation.use_triton(squared) == expected
    monkeypatch.setenv('SERKD_MM_TRITON', 'yes')
    with pytest.raises(ValueError, match='SERKD_MM_TRITON'):
        angle_relation.use_triton(squared)


@pytest.mark.parametrize('broken', ['no compiler', 'not finite'])
def test_kernel_that_does_not_run_is_reported_and_replaced(broken, monkeypatch):
    triton = pytest.importorskip('serkd_mm.ops.angle_relation_triton')

    def angle_sums(student, *_):
        if broken == 'no compiler':
            raise RuntimeError('Failed to find C compiler')
        return angle_relation.AngleSums(*[torch.full_like(student, torch.nan)] * 4)

    monkeypatch.setattr(triton, 'angle_sums', angle_sums)
    angle_relation.triton_runs.cache_clear()
    try:
        with pytest.warns(UserWarning, match='does not run on cpu, so PyTorch computes the loss.*(C compiler|not finite)'):
            assert not angle_relation.triton_runs(torch.device('cpu'))
        with warnings.catch_warnings(action='error'):
            assert not angle_relation.triton_runs(torch.device('cpu'))  # Tried and reported once.
    finally:
        angle_relation.triton_runs.cache_clear()


@NEEDS_TRITON
def test_kernel_is_tried_where_it_will_run():
    angle_relation.triton_runs.cache_clear()
    assert angle_relation.triton_runs(torch.device(DEVICE))


@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_nan_reaches_the_value_and_the_gradient_of_its_image(loss, side):
    sides = {'student': tokens(2, 5, 6), 'teacher': tokens(2, 5, 4, seed=1)}
    sides[side][1, 3, 2] = torch.nan
    value, gradient = value_and_gradient(loss, **sides)
    assert value.isnan()
    assert gradient[0].isfinite().all()
    assert gradient[1].isnan().any()


@NEEDS_TRITON
@pytest.mark.parametrize('argument', range(4))
def test_nan_reaches_every_sum_of_the_kernel(argument):
    from serkd_mm.ops.angle_relation_triton import angle_sums  # noqa: PLC0415 (Triton is not installed everywhere)

    arguments = [tensor.float().to(DEVICE) for seed in (0, 1) for tensor in squared_and_inverse_distances(5, seed)]
    arguments = [arguments[place] for place in (0, 2, 1, 3)]
    arguments[argument][0, 1, 2] = torch.nan
    assert all(sums[0].isnan().any() for sums in angle_sums(*arguments))


def plain_angle_sums(student, teacher):
    """The four sums in the order of ``AngleSums``, from all B x L^3 angles; symbols of ``angle_relation``'s docstring."""
    cosines, inverses = [], []
    for squared in (student, teacher):  # D
        inverse = torch.where(squared > 0, squared**-0.5, 0.0)  # r
        d_ij, d_ik, d_jk = squared[:, :, :, None], squared[:, :, None, :], squared[:, None, :, :]
        cosines.append((d_ij + d_ik - d_jk) * inverse[:, :, :, None] * inverse[:, :, None, :] / 2)
        inverses.append(inverse)
    difference = cosines[0] - cosines[1]
    huber = torch.where(difference.abs() <= 1, difference**2 / 2, difference.abs() - 0.5)
    slope = difference.clamp(-1, 1)  # h'
    weight = slope * inverses[0][:, :, :, None] * inverses[0][:, :, None, :] / 2  # w
    assert (difference.abs() > 1).any()
    return huber.sum(dim=(1, 2, 3)), weight.sum(dim=1), weight.sum(dim=3), (slope * cosines[0]).sum(dim=3)


def assert_angle_sums(angle_sums, num_tokens, dtype, device, rtol):
    """Compare each field of the ``AngleSums`` of a function with the plain sums."""
    (student, inverse), (teacher, teacher_inverse) = (squared_and_inverse_distances(num_tokens, seed) for seed in (0, 1))
    actual = angle_sums(*(tensor.to(device, dtype) for tensor in (student, teacher, inverse, teacher_inverse)))
    assert isinstance(actual, angle_relation.AngleSums)
    for name, one, expected in zip(actual._fields, actual, plain_angle_sums(student, teacher), strict=True):
        assert one.shape == expected.shape, name
        assert_close(one.cpu(), expected, rtol)


@pytest.mark.parametrize(('dtype', 'rtol'), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize('block_size', [1, 30, 2**18])
@pytest.mark.parametrize('num_tokens', [5, 8, 13])
def test_blockwise_angle_sums_equal_plain_sums(num_tokens, block_size, dtype, rtol, monkeypatch):
    monkeypatch.setitem(angle_relation._BLOCK_SIZE, 'cpu', block_size)
    assert_angle_sums(angle_relation.blockwise_angle_sums, num_tokens, dtype, 'cpu', rtol)


@NEEDS_TRITON
@pytest.mark.parametrize('tiles', TILES)
@pytest.mark.parametrize('parts', [1, 4])
@pytest.mark.parametrize('num_tokens', [5, 9, 13])
def test_triton_angle_sums_equal_plain_sums(num_tokens, parts, tiles, monkeypatch):
    from serkd_mm.ops import angle_relation_triton  # noqa: PLC0415 (Triton is not installed everywhere)

    monkeypatch.setattr(angle_relation_triton, '_TILES', tiles)
    monkeypatch.setattr(angle_relation_triton, '_PARTS', parts)
    assert_angle_sums(angle_relation_triton.angle_sums, num_tokens, torch.float32, DEVICE, rtol=1e-5)


@NEEDS_TRITON
def test_kernel_is_deterministic_and_chooses_precision_by_image():
    from serkd_mm.ops.angle_relation_triton import angle_sums  # noqa: PLC0415 (Triton is not installed everywhere)

    points = tokens(2, 9, 3, dtype=torch.float64)
    points[1, 8] = points[1, 0] + 1e-4  # Close, so this image is computed in float64.
    squared = (points[:, :, None] - points[:, None]).square().sum(dim=3)
    inverse = torch.where(squared > 0, squared**-0.5, 0.0)
    sides = [squared.to(DEVICE), squared.sqrt().to(DEVICE), inverse.to(DEVICE), inverse.sqrt().to(DEVICE)]
    first, second = (angle_sums(*sides) for _ in range(2))
    expected = angle_relation.blockwise_angle_sums(*sides)
    for one, again, wanted in zip(first, second, expected, strict=True):
        assert torch.equal(one, again)
        for image, rtol in ((0, 1e-5), (1, 1e-12)):
            assert_close(one[image].cpu(), wanted[image].cpu(), rtol, floor=1e-12)


@NEEDS_TRITON
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_what_surrounds_the_kernel_does_not_wait_for_a_gpu(dtype, monkeypatch):
    """With fake tensors on a GPU, where the kernel itself cannot be launched."""
    from serkd_mm.ops import angle_relation_triton  # noqa: PLC0415 (Triton is not installed everywhere)

    launched = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **_: launched.append((grid, [one for one in arguments if torch.is_tensor(one)]))

    monkeypatch.setattr(angle_relation_triton, '_angle_sums_kernel', Kernel())
    monkeypatch.setattr(torch.cuda, 'device', lambda _: nullcontext())
    with fake_devices(monkeypatch):
        squared = torch.empty(2, 196, 196, dtype=dtype, device='cuda:0')
        sums = angle_relation_triton.angle_sums(*[squared] * 4)
    assert {(one.device.type, one.dtype) for one in sums} == {('cuda', dtype)}
    assert [tuple(one.shape) for one in sums] == [(2,), *[(2, 196, 196)] * 3]
    assert len(launched) == (2 if dtype == torch.float32 else 4)  # Two tiles, in one precision or both.
    for _, tensors in launched:
        assert all(one.device.type == 'cuda' and one.is_contiguous() for one in tensors)


def needs_compiler():
    """Skip without Triton's compiler for NVIDIA's GPUs; return the kernel's module."""
    triton = pytest.importorskip('triton')
    if digit_version(triton.__version__) < digit_version('3.3'):
        pytest.skip('the tool needs Triton 3.3')
    if not (Path(triton.__file__).parent / 'backends' / 'nvidia' / 'bin' / 'ptxas').is_file():
        pytest.skip('this Triton has no compiler for NVIDIA GPUs')
    return pytest.importorskip('serkd_mm.ops.angle_relation_triton')


@pytest.mark.slow
def test_kernel_compiles_for_each_target_within_its_bars(tmp_path):
    needs_compiler()
    out = tmp_path / 'statistics.json'
    run_python(STATISTICS, '--tokens', '49', '196', '--out', out, TRITON_CACHE_DIR=str(tmp_path / 'cache'))
    found = [one for one in json.loads(out.read_text())['results'] if one['target'].startswith('sm_')]
    compiled = [one for one in found if 'failed' not in one]
    assert {'sm_75', 'sm_80', 'sm_86', 'sm_89', 'sm_90'} <= {one['target'] for one in compiled}
    for one in compiled:
        assert one['spills'] == 0
        assert one['occupancy'] >= 1 / 4
        assert one['instructions'] <= {49: 32, 196: 25}[one['tokens']]


@pytest.mark.slow
def test_the_kernel_has_the_best_tiles_of_the_table(tmp_path):
    triton = needs_compiler()
    tiles, out = ['64x8', '32x8', '64x4', '32x4', '128x4', '64x16'], tmp_path / 'tiles.json'
    settings = ['--targets', 'sm_90', '--tiles', *tiles, '--out', out]
    run_python(STATISTICS, *settings, TRITON_CACHE_DIR=str(tmp_path / 'cache'))
    found = [one for one in json.loads(out.read_text())['results'] if one['occupancy'] >= 1 / 4 and not one['spills']]
    narrow = [one for one in found if one['tile'].startswith('32')]
    best = [min(of, key=lambda one: one['instructions'])['tile'] for of in (found, narrow)]
    assert best == [f'{rows} x {columns}' for rows, columns in triton._TILES]
