"""Relation losses against the paper's listing and against equations 10 and 11."""

import pytest
import torch
from builders import extra_memory
from reference import formula_angle_loss, formula_distance_loss, listing_angle_loss, listing_distance_loss

from serkd_mm.ops import angle_relation_loss, distance_relation_loss, streamed_angles


def angle_by_kernel(student, teacher):
    """The angle loss by the Triton kernel: on a GPU where there is one, and else by Triton's interpreter."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('SERKD_MM_TRITON', '1')
        return angle_relation_loss(student.to(device), teacher.to(device)).cpu()


def has_triton():
    """Whether the kernel can run here: Triton interprets from its version 3 on."""
    try:
        import triton  # noqa: PLC0415
    except ImportError:
        return False
    return torch.cuda.is_available() or int(triton.__version__.split('.')[0]) >= 3


NEEDS_TRITON = pytest.mark.skipif(not has_triton(), reason='needs Triton, and a GPU or its interpreter')
DISTANCE = pytest.param(distance_relation_loss, listing_distance_loss, id='distance')
ANGLE = pytest.param(angle_relation_loss, listing_angle_loss, id='angle')
ANGLE_KERNEL = pytest.param(angle_by_kernel, listing_angle_loss, id='angle kernel', marks=NEEDS_TRITON)
LOSSES = [DISTANCE, ANGLE, ANGLE_KERNEL]
OURS = [pytest.param(param.values[0], id=param.id, marks=param.marks) for param in LOSSES]


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


@pytest.mark.parametrize(('loss', 'listing'), LOSSES)
@pytest.mark.parametrize('num_tokens', [2, 9, 49])
@pytest.mark.parametrize(('batch', 'student_channels', 'teacher_channels'), [(1, 192, 768), (3, 16, 5)])
def test_equals_the_listing_in_value_and_gradient(loss, listing, num_tokens, batch, student_channels, teacher_channels):
    student, teacher = tokens(batch, num_tokens, student_channels), tokens(batch, num_tokens, teacher_channels, seed=1)
    value, gradient = value_and_gradient(loss, student, teacher)
    expected, expected_gradient = value_and_gradient(listing, student.double(), teacher.double())
    assert value.dtype == gradient.dtype == torch.float32
    assert_close(value, expected, rtol=1e-5)
    assert_close(gradient, expected_gradient, rtol=1e-5)


@pytest.mark.parametrize(('loss', 'formula'), [(distance_relation_loss, formula_distance_loss)])
@pytest.mark.parametrize('num_tokens', [2, 5])
def test_distance_equals_the_equation(loss, formula, num_tokens):
    student, teacher = tokens(2, num_tokens, 4), 30 * tokens(2, num_tokens, 7, seed=1) ** 3
    assert_close(loss(student, teacher), formula(student, teacher), rtol=1e-5)


@pytest.mark.parametrize('num_tokens', [1, 2, 5])
def test_angle_equals_the_equation(num_tokens):
    student, teacher = tokens(2, num_tokens, 4), tokens(2, num_tokens, 7, seed=1)
    assert_close(angle_relation_loss(student, teacher), formula_angle_loss(student, teacher), rtol=1e-5)


@pytest.mark.parametrize(('loss', 'listing'), LOSSES)
def test_huber_is_linear_beyond_one(loss, listing):
    # Distances of 1:1:1000 against equal ones, and opposite directions against equal ones, leave the quadratic part.
    student = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1000.0, 0.1], [0.5, 0.5]]])
    teacher = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [-1.0, 0.1], [-0.5, -2.0]]])
    value, gradient = value_and_gradient(loss, student, teacher)
    expected, expected_gradient = value_and_gradient(listing, student.double(), teacher.double())
    # At a vertex with neighbours 1 and 1000 away, float32 coordinates know the direction to the near one to 1e-4.
    assert_close(value, expected, rtol=1e-4)
    assert_close(gradient, expected_gradient, rtol=1e-4)


@pytest.mark.parametrize(('loss', 'listing'), LOSSES)
def test_equal_tokens_give_finite_numbers_and_the_value_of_the_listing(loss, listing):
    student, teacher = tokens(2, 9, 16), tokens(2, 9, 24, seed=1)
    student[:, 4], student[:, 7], teacher[:, 1] = student[:, 2], student[:, 2], teacher[:, 3]
    value, gradient = value_and_gradient(loss, student, teacher)
    assert_close(value, listing(student.double(), teacher.double()), rtol=1e-5)
    assert gradient.isfinite().all()
    assert gradient.abs().max() < 1


@pytest.mark.parametrize(
    ('loss', 'formula'),
    [
        (distance_relation_loss, formula_distance_loss),
        (angle_relation_loss, formula_angle_loss),
        pytest.param(angle_by_kernel, formula_angle_loss, marks=NEEDS_TRITON),
    ],
)
def test_equal_tokens_have_no_gradient_between_them(loss, formula):
    # Automatic differentiation of the formulas, in which equal tokens have distance 0 and no direction.
    student, teacher = tokens(2, 5, 6), tokens(2, 5, 4, seed=1)
    student[:, 4], teacher[:, 1] = student[:, 2], teacher[:, 3]
    value, gradient = value_and_gradient(loss, student, teacher)
    expected, expected_gradient = value_and_gradient(formula, student.double(), teacher.double())
    assert_close(value, expected, rtol=1e-5)
    assert_close(gradient, expected_gradient, rtol=1e-5)


@pytest.mark.parametrize('loss', OURS)
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


@pytest.mark.parametrize(('loss', 'listing'), LOSSES)
@pytest.mark.parametrize('closeness', [1e-3, 1e-4])
def test_close_tokens_keep_their_gradient_in_float32(loss, listing, closeness):
    student, teacher = tokens(1, 9, 64), tokens(1, 9, 32, seed=1)
    student = student[:, :1] + closeness * student  # far from the origin, close to each other
    student[:, 8] += 1.0  # and one that is not, so that centring alone does not help
    value, gradient = value_and_gradient(loss, student, teacher)
    expected, expected_gradient = value_and_gradient(listing, student.double(), teacher.double())
    assert_close(value, expected, rtol=1e-4)
    assert_close(gradient, expected_gradient, rtol=1e-3)


@pytest.mark.parametrize('loss', [distance_relation_loss, angle_relation_loss])
def test_gradcheck(loss):
    student = tokens(2, 5, 3, dtype=torch.float64).requires_grad_()
    teacher = tokens(2, 5, 4, seed=1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), student)


@pytest.mark.parametrize('loss', OURS)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_promoted(loss, dtype):
    student, teacher = tokens(2, 9, 16, dtype=dtype), tokens(2, 9, 24, seed=1, dtype=dtype)
    value, gradient = value_and_gradient(loss, student, teacher)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert torch.equal(value, loss(student.float(), teacher.float()))


@pytest.mark.parametrize('loss', OURS)
def test_autocast_changes_nothing(loss):
    student, teacher = tokens(2, 9, 16), tokens(2, 9, 24, seed=1)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(loss(student, teacher), loss(student.clone(), teacher.clone()))
        inside = loss(student, teacher)
    assert torch.equal(inside, loss(student, teacher))


@pytest.mark.parametrize('loss', [distance_relation_loss, angle_relation_loss])
def test_relations_ignore_shift_scale_and_rotation_and_spare_the_teacher(loss):
    student = tokens(2, 9, 6, dtype=torch.float64).requires_grad_()
    rotation, _ = torch.linalg.qr(tokens(6, 6, seed=2, dtype=torch.float64))
    teacher = (student.detach() @ rotation * 3 + 5).requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert value < 1e-20
    assert teacher.grad is None


@pytest.mark.parametrize('loss', [distance_relation_loss, angle_relation_loss])
@pytest.mark.parametrize('shape', [(2, 8, 4), (3, 9, 4), (2, 9)])
def test_shapes_that_do_not_fit_are_refused(loss, shape):
    with pytest.raises(ValueError, match='compares tokens'):
        loss(tokens(2, 9, 4), tokens(*shape))


@NEEDS_TRITON
@pytest.mark.parametrize('tile_size', [16, 4096])
@pytest.mark.parametrize('num_tokens', [3, 16, 17])
def test_the_kernel_does_not_depend_on_its_tiles(tile_size, num_tokens, monkeypatch):
    from serkd_mm.ops import angle_kernel  # noqa: PLC0415

    monkeypatch.setattr(angle_kernel, '_TILE_SIZE', tile_size)
    student, teacher = tokens(2, num_tokens, 8), tokens(2, num_tokens, 5, seed=1)
    expected = value_and_gradient(angle_relation_loss, student, teacher)
    for actual, wanted in zip(value_and_gradient(angle_by_kernel, student, teacher), expected, strict=True):
        assert_close(actual, wanted, rtol=1e-6)


@NEEDS_TRITON
def test_float64_stays_float64_where_the_kernel_is_asked_for():
    student, teacher = tokens(2, 5, 3, dtype=torch.float64), tokens(2, 5, 4, seed=1, dtype=torch.float64)
    assert torch.equal(angle_by_kernel(student, teacher), angle_relation_loss(student, teacher))


def test_who_computes_the_sums_is_chosen_by_device_and_environment(monkeypatch):
    squared = tokens(1, 3, 3)
    monkeypatch.delenv('SERKD_MM_TRITON', raising=False)
    assert not streamed_angles.use_kernel(squared)
    for setting, expected in {'auto': False, '0': False, '1': True}.items():
        monkeypatch.setenv('SERKD_MM_TRITON', setting)
        assert streamed_angles.use_kernel(squared) == expected
    monkeypatch.setenv('SERKD_MM_TRITON', 'yes')
    with pytest.raises(ValueError, match='SERKD_MM_TRITON'):
        streamed_angles.use_kernel(squared)


@pytest.mark.parametrize('block_size', [1, 30, 9**3 + 5, 2**20])
@pytest.mark.parametrize('num_parts', [1, 2, 5, 9, 20])
def test_angles_do_not_depend_on_how_they_are_cut(block_size, num_parts, monkeypatch):
    monkeypatch.setattr(streamed_angles, '_NUM_PARTS', num_parts)
    student, teacher = tokens(3, 9, 16, dtype=torch.float64), tokens(3, 9, 24, seed=1, dtype=torch.float64)
    expected = value_and_gradient(listing_angle_loss, student, teacher)
    monkeypatch.setitem(streamed_angles._BLOCK_SIZE, 'cpu', block_size)
    for actual, wanted in zip(value_and_gradient(angle_relation_loss, student, teacher), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['distance_relation_loss', 'angle_relation_loss'])
def test_196_tokens_of_128_images_fit_into_little_memory(name):
    # The tokens are 77 MB, B x L x L x C differences would be 15 GB and B x L^3 angles 3.9 GB.
    prepare = f"""
from serkd_mm.ops import {name}
student, teacher = torch.randn(128, 196, 768).requires_grad_(), torch.randn(128, 196, 768)
{name}(student[:1], teacher[:1]).backward()
"""
    assert extra_memory(prepare, f'{name}(student, teacher).backward()') < 1000
