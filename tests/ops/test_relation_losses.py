"""The relation losses against the reference, the paper's listing, and against equations 10 and 11."""

import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from builders import extra_memory
from formulas import formula_angle_loss, formula_distance_loss, formula_normalized_distances

from serkd_mm.ops import angle_relation, angle_relation_loss, distance_relation_loss, normalized_distances, reference
from serkd_mm.ops import squared_distances as squared_distances_module
from serkd_mm.ops.squared_distances import squared_distances

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def loss_without_reads(loss):
    """Compute a loss as on a GPU without Triton: without looking at the data."""

    def compute(student, teacher):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(squared_distances_module, 'reads_are_free', lambda _: False)
            return loss(student, teacher)

    return compute


def triton_angle_loss(student, teacher, **settings):
    """The angle loss by the Triton kernel: on a GPU if there is one, otherwise as there, by Triton's interpreter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('SERKD_MM_TRITON', '1')
        patch.setattr(squared_distances_module, 'reads_are_free', lambda _: False)
        return angle_relation_loss(student.to(DEVICE), teacher.to(DEVICE), **settings).cpu()


def has_triton():
    """Whether the kernel runs here: without a GPU it needs the interpreter of Triton 3 or later."""
    try:
        import triton  # noqa: PLC0415
    except ImportError:
        return False
    return torch.cuda.is_available() or int(triton.__version__.split('.')[0]) >= 3


NEEDS_TRITON = pytest.mark.skipif(not has_triton(), reason='needs Triton, and a GPU or its interpreter')
LOSSES_AND_REFERENCES = [
    pytest.param(distance_relation_loss, reference.distance_relation_loss, id='distance'),
    pytest.param(angle_relation_loss, reference.angle_relation_loss, id='angle'),
    pytest.param(triton_angle_loss, reference.angle_relation_loss, id='triton angle', marks=NEEDS_TRITON),
]
LOSSES = [pytest.param(param.values[0], id=param.id, marks=param.marks) for param in LOSSES_AND_REFERENCES]


def tokens(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def value_and_gradient(loss, student, teacher):
    student = student.clone().requires_grad_()
    value = loss(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    return value.detach(), gradient


def assert_close(actual, expected, rtol, floor=1e-9):
    error = (actual.double() - expected.double()).abs().max()
    assert error <= rtol * expected.double().abs().max() + floor, f'error {error:.2e} of {expected.abs().max():.2e}'


@pytest.mark.parametrize(('loss', 'expected_loss'), LOSSES_AND_REFERENCES)
@pytest.mark.parametrize('num_tokens', [2, 9, 49])
@pytest.mark.parametrize(('batch', 'student_channels', 'teacher_channels'), [(1, 192, 768), (3, 16, 5)])
def test_value_and_gradient_equal_reference(loss, expected_loss, num_tokens, batch, student_channels, teacher_channels):
    student, teacher = tokens(batch, num_tokens, student_channels), tokens(batch, num_tokens, teacher_channels, seed=1)
    value, gradient = value_and_gradient(loss, student, teacher)
    expected, expected_gradient = value_and_gradient(expected_loss, student.double(), teacher.double())
    assert value.dtype == gradient.dtype == torch.float32
    assert_close(value, expected, rtol=1e-5)
    assert_close(gradient, expected_gradient, rtol=1e-5)


@pytest.mark.parametrize('num_tokens', [2, 5])
def test_distance_loss_equals_equation_10(num_tokens):
    student, teacher = tokens(2, num_tokens, 4), 30 * tokens(2, num_tokens, 7, seed=1) ** 3
    assert_close(distance_relation_loss(student, teacher), formula_distance_loss(student, teacher), rtol=1e-5)


@pytest.mark.parametrize('num_tokens', [1, 2, 5])
def test_angle_loss_equals_equation_11(num_tokens):
    student, teacher = tokens(2, num_tokens, 4), tokens(2, num_tokens, 7, seed=1)
    assert_close(angle_relation_loss(student, teacher), formula_angle_loss(student, teacher), rtol=1e-5)


@pytest.mark.parametrize(('loss', 'expected_loss'), LOSSES_AND_REFERENCES)
def test_huber_loss_is_linear_beyond_one(loss, expected_loss):
    # Distances of 1:1:1000 against similar ones, and opposite directions, reach the linear part of the Huber loss.
    student = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1000.0, 0.1], [0.5, 0.5]]])
    teacher = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [-1.0, 0.1], [-0.5, -2.0]]])
    value, gradient = value_and_gradient(loss, student, teacher)
    expected, expected_gradient = value_and_gradient(expected_loss, student.double(), teacher.double())
    # Between a near and a far token the squared distances are 1e6, so float32 resolves the cosine to 1e-4.
    assert_close(value, expected, rtol=1e-4)
    assert_close(gradient, expected_gradient, rtol=1e-4)


@pytest.mark.parametrize(('loss', 'expected_loss'), LOSSES_AND_REFERENCES)
def test_equal_tokens_have_reference_value_and_finite_gradient(loss, expected_loss):
    student, teacher = tokens(2, 9, 16), tokens(2, 9, 24, seed=1)
    student[:, 4], student[:, 7], teacher[:, 1] = student[:, 2], student[:, 2], teacher[:, 3]
    value, gradient = value_and_gradient(loss, student, teacher)
    assert_close(value, expected_loss(student.double(), teacher.double()), rtol=1e-5)
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 1


@pytest.mark.parametrize(
    ('loss', 'formula'),
    [
        (distance_relation_loss, formula_distance_loss),
        (angle_relation_loss, formula_angle_loss),
        pytest.param(triton_angle_loss, formula_angle_loss, marks=NEEDS_TRITON),
    ],
)
def test_equal_tokens_have_zero_gradient_between_them(loss, formula):
    # In the formulas, which autograd differentiates, equal tokens have distance 0 and no direction.
    student, teacher = tokens(2, 5, 6), tokens(2, 5, 4, seed=1)
    student[:, 4], teacher[:, 1] = student[:, 2], teacher[:, 3]
    value, gradient = value_and_gradient(loss, student, teacher)
    expected, expected_gradient = value_and_gradient(formula, student.double(), teacher.double())
    assert_close(value, expected, rtol=1e-5)
    assert_close(gradient, expected_gradient, rtol=1e-5)


def test_squared_distances_are_zero_between_tokens_closer_than_1e_6_of_their_norm():
    student = tokens(2, 9, 16, dtype=torch.float64)
    student[:, 4], student[:, 7] = (1 + 1e-7) * student[:, 2], (1 + 1e-5) * student[:, 3]
    expected = (student[:, :, None] - student[:, None]).square().sum(dim=3)
    squared = squared_distances(student)
    assert (squared[:, 2, 4] == 0).all()
    assert (expected[:, 2, 4] > 0).all()
    expected[:, 2, 4] = expected[:, 4, 2] = 0
    torch.testing.assert_close(squared, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize('loss', LOSSES)
def test_almost_equal_tokens_have_zero_gradient_between_them(loss):
    student, teacher = tokens(2, 9, 16), tokens(2, 9, 24, seed=1)
    student[:, 4] = student[:, 2]
    expected = value_and_gradient(loss, student, teacher)
    student[:, 4] *= 1 + 1e-7
    assert not torch.equal(student[:, 4], student[:, 2])
    for actual, wanted in zip(value_and_gradient(loss, student, teacher), expected, strict=True):
        assert_close(actual, wanted, rtol=1e-5)


@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('student_constant', [True, False])
@pytest.mark.parametrize('num_tokens', [1, 2, 9])
def test_constant_maps_and_single_tokens_are_finite(loss, student_constant, num_tokens):
    student, teacher = tokens(2, num_tokens, 6), torch.full((2, num_tokens, 3), 7.3)
    if student_constant:
        student = student[:, :1].expand(-1, num_tokens, -1)
    value, gradient = value_and_gradient(loss, student, teacher)
    assert value.isfinite()
    assert gradient.isfinite().all()
    if num_tokens == 1:
        assert value == 0


@pytest.mark.parametrize(('loss', 'expected_loss'), LOSSES_AND_REFERENCES)
@pytest.mark.parametrize('closeness', [1e-3, 1e-4])
def test_close_tokens_keep_their_gradient_in_float32(loss, expected_loss, closeness):
    student, teacher = tokens(1, 9, 64), tokens(1, 9, 32, seed=1)
    student = student[:, :1] + closeness * student  # Far from the origin, close to each other.
    student[:, 8] += 1.0  # One token is far from the others, so centering alone is not enough.
    value, gradient = value_and_gradient(loss, student, teacher)
    expected, expected_gradient = value_and_gradient(expected_loss, student.double(), teacher.double())
    assert_close(value, expected, rtol=1e-4)
    assert_close(gradient, expected_gradient, rtol=1e-3)


@pytest.mark.parametrize('side', ['student', 'both'])
@pytest.mark.parametrize(
    ('loss', 'expected_loss', 'num_tokens'),
    [
        (distance_relation_loss, reference.distance_relation_loss, 9),
        (distance_relation_loss, reference.distance_relation_loss, 49),
        (angle_relation_loss, reference.angle_relation_loss, 9),
        (angle_relation_loss, reference.angle_relation_loss, 49),
        (loss_without_reads(distance_relation_loss), reference.distance_relation_loss, 9),
        (loss_without_reads(angle_relation_loss), reference.angle_relation_loss, 9),
        pytest.param(triton_angle_loss, reference.angle_relation_loss, 9, marks=NEEDS_TRITON),
    ],
)
def test_close_pair_does_not_disturb_other_tokens_and_images(loss, expected_loss, num_tokens, side):
    # One image for each closeness, up to where float32 takes over, and one without close tokens.
    closeness = torch.tensor([1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 1.0], dtype=torch.float64)[:, None]
    student, teacher = (tokens(7, num_tokens, c, seed=c, dtype=torch.float64) for c in (192, 64))
    for points in (student,) if side == 'student' else (student, teacher):
        direction = F.normalize(tokens(7, points.shape[2], seed=5, dtype=torch.float64))
        points[:, 1] = points[:, 0] + closeness * points[:, 0].norm(dim=1, keepdim=True) * direction
    student, teacher = student.float(), teacher.float()
    value, gradient = value_and_gradient(loss, student, teacher)
    expected, expected_gradient = value_and_gradient(expected_loss, student.double(), teacher.double())
    assert_close(value, expected, rtol=1e-5)
    error = (gradient - expected_gradient).norm(dim=2) / expected_gradient.norm(dim=2)  # Of each token alone.
    assert error.max() < 1e-3


@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_tokens_that_differ_by_rounding_are_equal(loss, side):
    # The mean of a constant map is rounded differently from token to token.
    sides = {'student': tokens(1, 9, 16), 'teacher': tokens(1, 9, 24, seed=1)}
    constant = sides[side][:, :1].expand(-1, 9, -1)
    expected = value_and_gradient(loss, **{**sides, side: constant})
    rounded = constant * (1 + 1e-7 * tokens(1, 9, 1, seed=2).sign())
    assert not torch.equal(rounded, constant)
    for actual, wanted in zip(value_and_gradient(loss, **{**sides, side: rounded}), expected, strict=True):
        assert_close(actual, wanted, rtol=1e-5)


@pytest.mark.parametrize('loss', LOSSES)
def test_outlier_token_does_not_disturb_other_tokens(loss):
    student, teacher = tokens(1, 9, 64), tokens(1, 9, 32, seed=1)
    student[:, 4] *= 100
    teacher[:, 2] *= 100
    reference_loss = reference.distance_relation_loss if loss is distance_relation_loss else reference.angle_relation_loss
    _, gradient = value_and_gradient(loss, student, teacher)
    _, expected = value_and_gradient(reference_loss, student.double(), teacher.double())
    assert ((gradient - expected).norm(dim=2) / expected.norm(dim=2)).max() < 1e-4


@pytest.mark.parametrize('loss', [distance_relation_loss, angle_relation_loss])
@pytest.mark.parametrize('scale', [1e-18, 1e18])
def test_tokens_whose_squares_leave_the_range_of_float32_keep_their_relations(loss, scale):
    student, teacher = tokens(2, 9, 16), tokens(2, 9, 24, seed=1)
    expected, expected_gradient = value_and_gradient(loss, student, teacher)
    value, gradient = value_and_gradient(loss, student * scale, teacher * scale)
    # At 1e-18 the listing's floor of 1e-6 under distances makes all distances constant.
    if loss is angle_relation_loss or scale > 1:
        assert_close(value, expected, rtol=1e-5)
        assert_close(gradient * scale, expected_gradient, rtol=1e-4)
    assert gradient.isfinite().all()


@pytest.mark.parametrize('loss', [distance_relation_loss, angle_relation_loss])
def test_reduced_precision_of_products_is_not_used(loss):
    student, teacher = tokens(2, 9, 16), tokens(2, 9, 24, seed=1)
    expected, expected_gradient = value_and_gradient(loss, student.double(), teacher.double())
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision('medium')
        value, gradient = value_and_gradient(loss, student, teacher)
    finally:
        torch.set_float32_matmul_precision(precision)
    assert torch.equal(value, expected.float())
    assert torch.equal(gradient, expected_gradient.float())


def formula_angle_loss_with_floor(student, teacher, share):
    """Equation 11 with distances in the denominators of at least a share of the image's mean distance."""
    cosines = []
    for points in (student, teacher):
        differences = points[:, :, None] - points[:, None]  # At (i, j): x_i - x_j.
        num_tokens = points.shape[1]
        distances = torch.where(torch.eye(num_tokens, dtype=bool), 1.0, differences.square().sum(dim=3)).sqrt()
        mean = distances.detach().sum(dim=(1, 2), keepdim=True) - num_tokens
        floor = share * mean / (num_tokens * (num_tokens - 1))
        directions = differences / torch.maximum(distances, floor)[..., None]
        cosines.append(directions @ directions.mT)
    return F.smooth_l1_loss(cosines[0], cosines[1].detach())


@pytest.mark.parametrize('loss', [angle_relation_loss, pytest.param(triton_angle_loss, marks=NEEDS_TRITON)])
@pytest.mark.parametrize('share', [0.05, 0.9])
def test_min_distance_is_a_floor_under_the_distances_of_the_cosines(loss, share):
    student, teacher = tokens(2, 9, 16), tokens(2, 9, 24, seed=1)
    student[:, 1] = student[:, 0] + 1e-4 * student[:, 1]
    floored = partial(angle_relation_loss, min_distance=share)
    if loss is triton_angle_loss:
        floored = partial(loss, min_distance=share)
    value, gradient = value_and_gradient(floored, student, teacher)
    expected, expected_gradient = value_and_gradient(
        partial(formula_angle_loss_with_floor, share=share), student.double(), teacher.double()
    )
    assert_close(value, expected, rtol=1e-5)
    assert_close(gradient, expected_gradient, rtol=1e-4)


def test_min_distance_bounds_the_gradient_of_an_image_with_close_tokens():
    student, teacher = tokens(2, 49, 64), tokens(2, 49, 64, seed=1)
    student[1, 1] = student[1, 0] + 1e-4 * student[1, 1]
    _, gradient = value_and_gradient(angle_relation_loss, student, teacher)
    ordinary, close = gradient.flatten(1).norm(dim=1)
    assert close > 30 * ordinary
    _, gradient = value_and_gradient(partial(angle_relation_loss, min_distance=0.05), student, teacher)
    ordinary, close = gradient.flatten(1).norm(dim=1)
    assert close < 3 * ordinary


@pytest.mark.parametrize('loss', [distance_relation_loss, angle_relation_loss])
def test_gradcheck(loss):
    student = tokens(2, 5, 3, dtype=torch.float64).requires_grad_()
    teacher = tokens(2, 5, 4, seed=1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), student)


@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_promoted(loss, dtype):
    student, teacher = tokens(2, 9, 16, dtype=dtype), tokens(2, 9, 24, seed=1, dtype=dtype)
    value, gradient = value_and_gradient(loss, student, teacher)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert torch.equal(value, loss(student.float(), teacher.float()))


@pytest.mark.parametrize('loss', LOSSES)
def test_autocast_changes_nothing(loss):
    student, teacher = tokens(2, 9, 16), tokens(2, 9, 24, seed=1)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(loss(student, teacher), loss(student.clone(), teacher.clone()))
        inside = loss(student, teacher)
    assert torch.equal(inside, loss(student, teacher))


@pytest.mark.parametrize('loss', [distance_relation_loss, angle_relation_loss])
def test_relations_are_invariant_to_similarity_transforms_and_teacher_has_no_gradient(loss):
    student = tokens(2, 9, 6, dtype=torch.float64).requires_grad_()
    rotation, _ = torch.linalg.qr(tokens(6, 6, seed=2, dtype=torch.float64))
    teacher = (student.detach() @ rotation * 3 + 5).requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert value < 1e-20
    assert teacher.grad is None


@pytest.mark.parametrize('loss', [distance_relation_loss, angle_relation_loss])
@pytest.mark.parametrize('shape', [(2, 8, 4), (3, 9, 4), (2, 9)])
def test_mismatched_shapes_raise(loss, shape):
    with pytest.raises(ValueError, match='compares tokens'):
        loss(tokens(2, 9, 4), tokens(*shape))


@NEEDS_TRITON
@pytest.mark.parametrize('tile_size', [16, 4096])
@pytest.mark.parametrize('num_tokens', [3, 16, 17])
def test_triton_loss_does_not_depend_on_tile_size(tile_size, num_tokens, monkeypatch):
    from serkd_mm.ops import angle_relation_triton  # noqa: PLC0415 (Triton is not installed everywhere)

    monkeypatch.setattr(angle_relation_triton, '_TILE_SIZE', tile_size)
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


@pytest.mark.parametrize('block_size', [1, 30, 9**3 + 5, 2**20])
@pytest.mark.parametrize('num_parts', [1, 2, 5, 9, 20])
def test_angle_loss_does_not_depend_on_block_size_or_num_parts(block_size, num_parts, monkeypatch):
    monkeypatch.setattr(angle_relation, '_NUM_PARTS', num_parts)
    student, teacher = tokens(3, 9, 16, dtype=torch.float64), tokens(3, 9, 24, seed=1, dtype=torch.float64)
    expected = value_and_gradient(reference.angle_relation_loss, student, teacher)
    monkeypatch.setitem(angle_relation._BLOCK_SIZE, 'cpu', block_size)
    for actual, wanted in zip(value_and_gradient(angle_relation_loss, student, teacher), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['distance_relation_loss', 'angle_relation_loss'])
def test_memory_of_128_images_with_196_tokens(name):
    # The tokens are 77 MB, B x L x L x C differences would be 15 GB and B x L^3 angles 3.9 GB.
    prepare = f"""
from serkd_mm.ops import {name}
student, teacher = torch.randn(128, 196, 768).requires_grad_(), torch.randn(128, 196, 768)
{name}(student[:1], teacher[:1]).backward()
"""
    assert extra_memory(prepare, f'{name}(student, teacher).backward()') < 1000


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize('shape', [(1, 2, 5), (3, 9, 4)])
def test_normalized_distances_equal_equation_1(shape, dtype, tolerance):
    student = 5 + tokens(*shape, dtype=dtype)
    distances = normalized_distances(student)
    assert distances.dtype == dtype
    assert (distances.diagonal(dim1=1, dim2=2) == 0).all()
    torch.testing.assert_close(distances.double(), formula_normalized_distances(student), rtol=tolerance, atol=0)
    torch.testing.assert_close(distances.sum(dim=(1, 2)), torch.full((shape[0],), shape[1] * (shape[1] - 1), dtype=dtype))


def test_normalized_distances_of_equal_tokens_and_of_a_single_token_are_finite():
    student = tokens(2, 5, 6, dtype=torch.float64)
    student[:, 4] = student[:, 2]
    # Equal tokens keep the listing's floor of 1e-6 under a distance.
    torch.testing.assert_close(normalized_distances(student), formula_normalized_distances(student), rtol=1e-6, atol=1e-6)
    assert (normalized_distances(student[:, :1]) == 0).all()
    assert normalized_distances(student[:, :1].expand(-1, 5, -1)).isfinite().all()


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


def squared_and_inverse_distances(num_tokens, seed):
    """Float64 ``(2, L, L)``; the last token equals token number ``seed``, so there is no direction between them."""
    points = tokens(2, num_tokens, 3, seed=seed, dtype=torch.float64)
    points[:, -1] = points[:, seed]
    squared = (points[:, :, None] - points[:, None]).square().sum(dim=3)
    return squared, torch.where(squared > 0, squared**-0.5, 0.0)


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
@pytest.mark.parametrize('tile_size', [16, 4096])
@pytest.mark.parametrize('num_tokens', [5, 8, 13])
def test_triton_angle_sums_equal_plain_sums(num_tokens, tile_size, monkeypatch):
    from serkd_mm.ops import angle_relation_triton  # noqa: PLC0415 (Triton is not installed everywhere)

    monkeypatch.setattr(angle_relation_triton, '_TILE_SIZE', tile_size)
    assert_angle_sums(angle_relation_triton.angle_sums, num_tokens, torch.float32, DEVICE, rtol=1e-5)
