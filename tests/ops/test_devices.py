"""Every operation on the GPU, if there is one, in float32: value and gradient as on the CPU in float64."""

import pytest
import torch
from relations import DEVICE, assert_close, tokens

from serkd_mm import ops
from serkd_mm.ops.isometric_triangle import isometric_triangle, tokens_from_triangle


def superpixels(grid, _):
    return torch.cat([one.flatten(1) for one in ops.associate_superpixels(grid, 2, 2)], dim=1)


def channel_graph(student, teacher):
    attention = ops.channel_attention(teacher)
    student, teacher = ops.unit_vertices(student), ops.unit_vertices(teacher)
    differences = [ops.vertex_difference(student, teacher, attention), ops.edge_difference(student, teacher)]
    return torch.stack([*differences, ops.spectral_difference(student, teacher, 0.05)])


def cells(grid, _):
    return torch.cat(
        [ops.average_cells(grid, ops.OutputGrid(4, 3)).flatten(1), ops.maximum_cells(grid, 3).flatten(1)], dim=1
    )


# By name: the operation of student and teacher, and the shapes of both.
OPERATIONS = {
    'distance relation': (ops.distance_relation_loss, (3, 49, 24), (3, 49, 40)),
    'angle relation': (ops.angle_relation_loss, (3, 49, 24), (3, 49, 40)),
    'normalized distances': (lambda student, _: ops.normalized_distances(student), (3, 25, 24), (1,)),
    'superpixels': (superpixels, (2, 24, 14, 13), (1,)),
    'cells': (cells, (2, 6, 8, 7), (1,)),
    'channel graph': (channel_graph, (2, 16, 12), (2, 16, 12)),
    'linear CKA': (ops.linear_cka, (64, 24), (64, 40)),
    'reference of distances': (ops.reference.distance_relation_loss, (3, 25, 24), (3, 25, 40)),
    'reference of angles': (ops.reference.angle_relation_loss, (3, 25, 24), (3, 25, 40)),
    'reference of superpixels': (lambda grid, _: ops.reference.superpixel_tokens(grid), (2, 24, 14, 14), (1,)),
}


def weighted_value_and_gradient(operation, student, teacher):
    student = student.requires_grad_()
    value = operation(student, teacher)
    assert value.device == student.device
    if not value.requires_grad:  # Only for measurements.
        return [value.cpu()]
    weights = tokens(value.numel(), seed=2).view(value.shape).to(value)
    (gradient,) = torch.autograd.grad((value * weights).sum(), student)
    assert gradient.device == student.device
    return [value.detach().cpu(), gradient.cpu()]


@pytest.mark.parametrize('name', OPERATIONS)
def test_operation_equals_that_on_the_cpu_in_float64(name):
    operation, *shapes = OPERATIONS[name]
    sides = [tokens(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    actual = weighted_value_and_gradient(operation, *(side.to(DEVICE) for side in sides))
    expected = weighted_value_and_gradient(operation, *(side.double() for side in sides))
    for one, wanted in zip(actual, expected, strict=True):
        assert_close(one, wanted, rtol=1e-4)


def test_distances_of_the_triangle_of_a_cache_are_those_of_the_tokens():
    points = tokens(2, 49, 24, dtype=torch.float64)
    decoded = tokens_from_triangle(isometric_triangle(points.to(DEVICE)), *points.shape[1:])
    assert decoded.device.type == DEVICE
    actual, expected = (
        torch.cdist(one, one) / torch.cdist(one, one).mean(dim=(1, 2), keepdim=True) for one in (decoded.cpu(), points)
    )
    assert_close(actual, expected, rtol=1e-6)
