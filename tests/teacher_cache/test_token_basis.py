"""The basis of principal components in which tokens are stored as int8."""

import pytest
import torch
from relations import tokens

from serkd_mm.fileio import WriteError
from serkd_mm.teacher_cache import CacheError
from serkd_mm.teacher_cache.token_basis import TokenBasis, fit_basis


def correlated(count, channels=24, seed=0):
    """Tokens whose variance falls from direction to direction, around a mean that is not 0."""
    falling = 0.7 ** torch.arange(channels)
    rotation = torch.linalg.qr(tokens(channels, channels, seed=99)).Q
    return (tokens(count, channels, seed=seed) * falling) @ rotation + 3


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_directions_are_those_of_the_largest_variance(dtype):
    points = correlated(400).to(dtype)
    basis = fit_basis(points, 6)
    assert (basis.rank, basis.num_channels) == (6, 24)
    exact = points.double()
    torch.testing.assert_close(basis.mean.double(), exact.mean(dim=0), rtol=1e-6, atol=1e-6)
    _, _, expected = torch.linalg.svd(exact - exact.mean(dim=0), full_matrices=False)  # Another way than the package's.
    overlap = (expected[:6] @ basis.basis.double()).abs()
    torch.testing.assert_close(overlap, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-5)


def test_errors_are_those_of_what_is_read():
    basis, points = fit_basis(correlated(400), 10), correlated(50, seed=1)
    codes = basis.encode(points)
    assert codes.dtype == torch.int8
    assert codes.shape == (50, 10)
    read = basis.decode(codes).double()
    error = (read - points.double()).square().sum()
    variance = (points.double() - basis.mean.double()).square().sum()
    assert basis.mean_squared_error(points) == pytest.approx(float(error) / points.numel())
    assert basis.relative_error(points) == pytest.approx(float(error / variance))
    assert basis.relative_error(points) < 0.01
    assert basis.decode(codes.view(5, 10, 10)).shape == (5, 10, 24)


def test_all_directions_lose_only_the_rounding():
    points = correlated(400)
    basis = fit_basis(points, 24)
    steps = (basis.decode(basis.encode(points)) - points) @ basis.basis / basis.scales
    assert 0.49 < steps.abs().quantile(0.99) < 0.51
    assert basis.relative_error(points) < 1e-4


def test_steps_are_the_best_of_five():
    points = correlated(300_000, channels=3)
    points[7] += 9 * fit_basis(points, 1).basis[:, 0]  # To clip it is worth a finer step for all others.
    basis = fit_basis(points, 3)
    halvings = []
    for direction, scale in zip(basis.basis.double().T, basis.scales.double(), strict=True):
        coefficients = (points.double() - basis.mean.double()) @ direction
        candidates = [coefficients.abs().max() / 127 / 2**halving for halving in range(5)]
        stored = [(coefficients / step).round().clamp(-127, 127) * step for step in candidates]
        errors = [float((part - coefficients).square().sum()) for part in stored]
        best = errors.index(min(errors))
        assert scale == pytest.approx(float(candidates[best]), rel=1e-2)  # The next is twice as large.
        halvings.append(best)
    assert halvings == [1, 0, 0]
    codes = basis.encode(10 * points)
    assert (codes.min(), codes.max()) == (-127, 127)


def test_constant_tokens_and_few_tokens_are_finite():
    basis = fit_basis(torch.full((5, 8), 2.5), 4)
    assert torch.equal(basis.decode(basis.encode(torch.full((3, 8), 2.5))), torch.full((3, 8), 2.5))
    few = tokens(3, 8)
    assert fit_basis(few, 8).relative_error(few) < 1e-4  # Fewer tokens than directions.


def test_saving_and_loading_is_exact(tmp_path):
    basis, points = fit_basis(correlated(400), 6), correlated(20, seed=1)
    saved = basis.save(tmp_path / 'basis.npz')
    loaded = TokenBasis.load(tmp_path / 'basis.npz')
    assert basis.sha256 is None
    assert saved.sha256 == loaded.sha256 == basis.save(tmp_path / 'again.npz').sha256
    assert torch.equal(loaded.encode(points), basis.encode(points))
    assert torch.equal(loaded.decode(loaded.encode(points)), basis.decode(basis.encode(points)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['again.npz', 'basis.npz']


def test_damaged_and_missing_files_are_named(tmp_path):
    file = tmp_path / 'basis.npz'
    fit_basis(correlated(400), 6).save(file)
    content = file.read_bytes()
    for damaged in (content[:500], b'', b'no archive', content[:200] + bytes(20) + content[220:]):
        file.write_bytes(damaged)
        with pytest.raises(CacheError, match=rf'^{file}, the basis of stored tokens, cannot be read: .*Make the cache anew'):
            TokenBasis.load(file)
    file.unlink()
    with pytest.raises(CacheError, match=rf'^{file}, .* cannot be read: .*No such file'):
        TokenBasis.load(file)
    file.touch()
    basis = fit_basis(correlated(400), 6)
    with pytest.raises(WriteError, match=r'basis.npz/part .* could not be written: .*the same command then continues'):
        basis.save(file / 'part')


@pytest.mark.parametrize('rank', [0, 25])
def test_rank_must_be_between_one_and_the_channels(rank):
    with pytest.raises(ValueError, match=f'rank must be between 1 and the number of channels, 24, but got {rank}'):
        fit_basis(correlated(40), rank)


def test_tokens_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match='the tokens are not finite'):
        fit_basis(torch.full((4, 3), torch.nan), 2)
