"""Relation losses of close and equal tokens: the gradient of every token, and a floor under distances."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from relations import (
    LOSSES,
    LOSSES_AND_REFERENCES,
    NEEDS_TRITON,
    assert_close,
    loss_without_reads,
    tokens,
    triton_angle_loss,
    value_and_gradient,
)

from serkd_mm.ops import angle_relation_loss, distance_relation_loss, reference
from serkd_mm.ops.squared_distances import squared_distances


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


@pytest.mark.parametrize(('loss', 'expected_loss'), LOSSES_AND_REFERENCES)
def test_outlier_token_does_not_disturb_other_tokens(loss, expected_loss):
    student, teacher = tokens(1, 9, 64), tokens(1, 9, 32, seed=1)
    student[:, 4] *= 100
    teacher[:, 2] *= 100
    _, gradient = value_and_gradient(loss, student, teacher)
    _, expected = value_and_gradient(expected_loss, student.double(), teacher.double())
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
