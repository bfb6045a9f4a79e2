"""The isometric triangle: distances and angles as of the tokens themselves, from fewer numbers."""

import pytest
import torch
import torch.nn.functional as F
from relations import tokens, value_and_gradient

from serkd_mm.ops import angle_relation_loss, distance_relation_loss
from serkd_mm.ops.isometric_triangle import isometric_triangle, tokens_from_triangle, triangle_size
from serkd_mm.ops.squared_distances import squared_distances

LOSSES = [pytest.param(distance_relation_loss, id='distance'), pytest.param(angle_relation_loss, id='angle')]


def distances_and_cosines(points):
    """Pair by pair and angle by angle from the differences, in float64; 0 where tokens are equal."""
    differences = points.double()[:, :, None] - points.double()[:, None]
    directions = F.normalize(differences, dim=3, eps=1e-300)
    return differences.norm(dim=3), directions @ directions.mT


def assert_same_relations(actual, expected, rtol):
    """Compare all distances, up to one factor for each image, and all cosines; both relative to their own size or to 1."""
    (actual, cosines), (expected, expected_cosines) = distances_and_cosines(actual), distances_and_cosines(expected)
    scale = expected.sum(dim=(1, 2), keepdim=True) / actual.sum(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(actual * scale.nan_to_num(), expected, rtol=rtol, atol=0)
    torch.testing.assert_close(cosines, expected_cosines, rtol=0, atol=rtol)


def stored(points, dtype=torch.float64):
    return tokens_from_triangle(isometric_triangle(points).to(dtype), *points.shape[1:])


def with_close_pairs(points, closeness):
    """Move every second token to ``closeness`` of the norm from the one before it; an image may have a closeness each."""
    points, others = points.double(), F.normalize(tokens(*points.shape, seed=9, dtype=torch.float64), dim=2)
    closeness = torch.as_tensor(closeness, dtype=torch.float64).view(-1, 1, 1)
    before = points[:, : points.shape[1] // 2 * 2 : 2]
    points[:, 1::2] = before + closeness * before.norm(dim=2, keepdim=True) * others[:, 1::2]
    return points


@pytest.mark.parametrize(
    ('shape', 'size'),
    [
        ((2, 49, 768), 1176),
        ((1, 196, 200), 19110),
        ((3, 9, 16), 36),
        ((2, 49, 24), 876),
        ((2, 9, 8), 36),
        ((4, 3, 5), 3),
        ((4, 2, 5), 1),
        ((4, 1, 5), 0),
        ((1, 5, 1), 4),
    ],
)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_distances_and_angles_are_those_of_the_tokens(shape, size, dtype):
    points = tokens(*shape, dtype=dtype)
    values = isometric_triangle(points)
    assert values.shape == (shape[0], size)
    assert triangle_size(*shape[1:]) == size
    assert values.dtype == torch.float64
    decoded = tokens_from_triangle(values, *shape[1:])
    assert decoded.shape == (*shape[:2], min(shape[1] - 1, shape[2]))
    assert_same_relations(decoded, points, rtol=1e-12)


@pytest.mark.parametrize('factor', [2.0**-70, 1e-5, 1.0, 1e5, 2.0**90])
def test_scale_is_a_power_of_two_and_exact(factor):
    points = tokens(3, 9, 16, dtype=torch.float64) * factor
    points[1] *= 3.7
    values = isometric_triangle(points)
    largest = values.abs().amax(dim=1)
    assert ((largest >= 0.5) & (largest < 1)).all()
    ratio = distances_and_cosines(points)[0] / distances_and_cosines(tokens_from_triangle(values, 9, 16))[0].clamp(
        min=1e-300
    )
    power = ratio[:, 0, 1].log2()
    torch.testing.assert_close(power, power.round(), rtol=0, atol=1e-12)
    assert torch.equal(isometric_triangle(points * 2.0**-11), values)


def test_equal_tokens_stay_bit_equal_and_have_no_distance():
    points = tokens(3, 9, 16)
    points[0, 4] = points[0, 2]
    points[0, 7] = points[0, 2] * (1 + 1e-7)  # Equal to the losses.
    points[1] = points[1, :1]
    chain = torch.tensor([1.0, 1 + 1.5e-6, 1 + 0.75e-6])[:, None]  # The first two are equal to the third only.
    points[2, [3, 5, 8]] = points[2, 3] * chain
    equal = squared_distances(points.double()) == 0
    assert equal[2, 3, 8] & equal[2, 5, 8] & ~equal[2, 3, 5]
    for dtype in (torch.float64, torch.float32, torch.float16):
        decoded = stored(points, dtype)
        for image, first, second in ((0, 2, 4), (0, 2, 7), (2, 3, 8), (2, 3, 5)):
            assert torch.equal(decoded[image, first], decoded[image, second])
        assert torch.equal(decoded[1], torch.zeros_like(decoded[1]))
        assert (squared_distances(decoded.float())[equal] == 0).all()
        assert ((squared_distances(decoded.double()) == 0) == (equal | (equal.double() @ equal.double() > 0))).all()


@pytest.mark.parametrize('closeness', [1e-3, 1e-4, 1e-5])
def test_close_tokens_keep_their_distances(closeness):
    points = with_close_pairs(tokens(2, 49, 768), closeness)
    assert_same_relations(stored(points), points, rtol=1e-9)


@pytest.mark.parametrize('shape', [(7, 49, 768), (7, 9, 2), (7, 5, 1), (7, 2, 4)])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float16])
def test_order_of_the_tokens_survives_whichever_is_the_origin(shape, dtype):
    # The token in the center of the others becomes the origin; few channels cannot store every index.
    points = 1 + tokens(*shape)
    index = torch.arange(len(points)) * 7 % shape[1]
    points[range(len(points)), index] = points.mean(dim=1)
    decoded = stored(points, dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 3e-3
    distances, actual = (distances_and_cosines(side)[0] for side in (points, decoded))
    mean, actual_mean = (side.mean(dim=(1, 2), keepdim=True) for side in (distances, actual))
    torch.testing.assert_close(actual / actual_mean, distances / mean, rtol=0, atol=tolerance)


def test_massive_token_stays_where_it_is_also_where_float16_loses_the_others():
    points = tokens(5, 5, 16)
    points[range(5), range(5)] *= 1e9
    distances = distances_and_cosines(stored(points, torch.float16))[0]
    assert distances.sum(dim=2).argmax(dim=1).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_tokens_that_are_not_finite_are_refused(value):
    points = tokens(2, 9, 16)
    points[1, 3, 2] = value
    with pytest.raises(ValueError, match='the tokens are not finite: they hold NaN or infinity'):
        isometric_triangle(points)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r'tokens \(B, L, C\), but got shape \(2, 9\)'):
        isometric_triangle(tokens(2, 9))


def with_massive(points, factor, index):
    points[:, index] *= factor
    return points


TEACHERS = {
    'random': lambda: tokens(2, 49, 768, seed=1),
    'offset': lambda: tokens(2, 49, 768, seed=1) + 10 * tokens(1, 1, 768, seed=2),
    '196 tokens': lambda: tokens(1, 196, 768, seed=1),
    'few channels': lambda: tokens(2, 49, 24, seed=1),
    'rank 5': lambda: tokens(2, 49, 5, seed=1) @ tokens(5, 768, seed=2),
    'large': lambda: 1e5 * tokens(2, 49, 768, seed=1),
    'massive first': lambda: with_massive(tokens(2, 49, 768, seed=1), 1000, 0),
    'massive last': lambda: with_massive(tokens(2, 49, 768, seed=1), 100, 48),
    'some equal': lambda: tokens(2, 30, 768, seed=1)[:, [*range(30), *range(0, 30, 2), 0, 0, 0, 0]],
}


@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('name', TEACHERS)
def test_relation_losses_and_gradients_of_float32_and_float16(loss, name):
    teacher = TEACHERS[name]()
    student = tokens(*teacher.shape[:2], 192)
    value, gradient = value_and_gradient(loss, student, teacher)
    for dtype, tolerance, of_gradient in ((torch.float32, 1e-5, 2e-5), (torch.float16, 1e-3, 2e-2)):
        actual, actual_gradient = value_and_gradient(loss, student, stored(teacher, dtype).float())
        assert abs(actual - value) <= tolerance * value, dtype
        assert (actual_gradient - gradient).norm() <= of_gradient * gradient.norm(), dtype


@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize(
    ('closeness', 'of_float32', 'of_float16'),
    [(1e-2, 1e-6, 5e-3), (1e-3, 1e-5, 5e-2), (1e-4, 5e-5, 1e-1), (1e-5, 5e-4, 1e-1)],
)
def test_close_pairs_cost_digits(loss, closeness, of_float32, of_float16):
    # Every second token is close to the one before it: rounding turns the direction between them.
    teacher = with_close_pairs(tokens(8, 49, 768, seed=1), closeness).float()
    student = tokens(8, 49, 192)
    value, _ = value_and_gradient(loss, student, teacher)
    for dtype, tolerance in ((torch.float32, of_float32), (torch.float16, of_float16)):
        actual, gradient = value_and_gradient(loss, student, stored(teacher, dtype).float())
        assert abs(actual - value) <= tolerance * value, dtype
        assert gradient.isfinite().all()
