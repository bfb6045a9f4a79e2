"""The relation losses against the reference, the paper's listing, and against equations 10 and 11."""

import pytest
import torch
from builders import extra_memory
from formulas import formula_angle_loss, formula_distance_loss, formula_normalized_distances
from relations import (
    DEVICE,
    LOSSES,
    LOSSES_AND_REFERENCES,
    NEEDS_TRITON,
    assert_close,
    tokens,
    triton_angle_loss,
    value_and_gradient,
)

from serkd_mm.ops import angle_relation, angle_relation_loss, distance_relation_loss, normalized_distances, reference


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
    with torch.autocast('cpu', dtype=torch.bfloat16), torch.autocast(DEVICE, dtype=torch.bfloat16):
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
