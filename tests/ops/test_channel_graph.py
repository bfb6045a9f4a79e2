"""The channel graphs of SEKD against their definition by eigenvectors, channel by channel, in float64."""

import pytest
import torch
from formulas import sekd_terms, spectral_projection
from torch.autograd import gradcheck

from serkd_mm.ops import (
    channel_attention,
    edge_difference,
    spectral_difference,
    spectral_embedding,
    unit_vertices,
    vertex_difference,
)

SHAPES = [(2, 9, 6), (1, 4, 12), (3, 12, 12), (1, 1, 5), (2, 7, 1)]


def channels(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def terms(student, teacher, cutoff=0.05):
    attention = channel_attention(teacher)
    student, teacher = unit_vertices(student), unit_vertices(teacher)
    return torch.stack(
        [
            vertex_difference(student, teacher, attention),
            edge_difference(student, teacher),
            spectral_difference(student, teacher, cutoff),
        ]
    )


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
def test_terms_equal_their_definitions(shape, dtype):
    student, teacher = channels(*shape, dtype=dtype), channels(*shape, seed=1, dtype=dtype)
    expected = torch.stack([torch.stack(sekd_terms(s, t, 0.05)) for s, t in zip(student, teacher, strict=True)], dim=1)
    actual = terms(student, teacher)
    assert actual.dtype == torch.promote_types(dtype, torch.float32)
    tolerance = 1e-10 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('shape', SHAPES)
def test_gradients_equal_those_of_the_definitions(shape):
    student, teacher = channels(*shape, dtype=torch.float64).requires_grad_(), channels(*shape, seed=1, dtype=torch.float64)
    for index in range(3):
        (actual,) = torch.autograd.grad(terms(student, teacher)[index].sum(), student)
        by_definition = [sekd_terms(s, t, 0.05)[index] for s, t in zip(student, teacher, strict=True)]
        if index < 2:  # Autograd of an eigendecomposition is not finite for equal eigenvalues.
            (expected,) = torch.autograd.grad(sum(by_definition), student)
            torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-10)
    assert gradcheck(lambda x: terms(x, teacher), student)


def test_float32_gradients_are_close_to_float64():
    student, teacher = channels(2, 49, 96, dtype=torch.float64), channels(2, 49, 96, seed=1, dtype=torch.float64)
    gradients = []
    for dtype in (torch.float64, torch.float32):
        x = student.to(dtype, copy=True).requires_grad_()
        terms(x, teacher.to(dtype), cutoff=0.01).sum().backward()
        gradients.append(x.grad.double())
    assert (gradients[1] - gradients[0]).norm() < 1e-4 * gradients[0].norm()


def test_embedding_does_not_depend_on_sign_or_rotation_of_eigenvectors():
    # Four orthogonal channels, three times each: eigenvalue 3 has multiplicity 4, and its eigenvectors may be rotated.
    vertices = torch.eye(6, dtype=torch.float64)[:, :4].repeat(1, 3)[None]
    embedded = spectral_embedding(vertices, 0.1)[0]
    for seed in range(4):
        expected = spectral_projection(vertices[0].T @ vertices[0], 0.1, rotate=seed)
        torch.testing.assert_close(embedded.T @ embedded, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('seed', range(3))
def test_difference_does_not_depend_on_choice_of_eigenvectors(seed):
    student, teacher = channels(1, 5, 8, dtype=torch.float64), channels(1, 5, 8, seed=1, dtype=torch.float64)
    student, teacher = unit_vertices(student), unit_vertices(teacher)
    actual = spectral_difference(student, teacher, 0.02)[0]
    s, t = (spectral_projection(x[0].T @ x[0], 0.02, rotate=seed) for x in (student, teacher))
    torch.testing.assert_close(actual, (s - t).square().sum() / t.square().sum(), rtol=1e-9, atol=0)


def test_terms_depend_on_order_of_channels_but_not_of_positions():
    student, teacher = channels(1, 9, 6), channels(1, 9, 6, seed=1)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(terms(student[:, order], teacher[:, order]), terms(student, teacher))
    assert (terms(student.roll(1, dims=2), teacher) - terms(student, teacher)).abs().min() > 1e-3


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize(
    'student',
    [
        torch.ones(1, 9, 6),  # A constant map: eigenvalue 0 has multiplicity 5.
        torch.zeros(1, 9, 6),
        torch.ones(1, 9, 6) * torch.tensor([1.0, -1, 2, 0, 0, 1e-30]),
        torch.eye(6).repeat(2, 1)[None],  # Orthogonal channels: eigenvalue 1 has multiplicity 6.
    ],
    ids=['constant', 'zero', 'partly zero', 'orthogonal'],
)
def test_repeated_eigenvalues_and_empty_channels_have_finite_gradients(student, dtype):
    student = student.to(dtype).requires_grad_()
    for teacher in (channels(*student.shape, dtype=dtype), student.detach(), torch.zeros_like(student)):
        values = terms(student, teacher)
        (gradient,) = torch.autograd.grad(values.sum(), student)
        assert values.isfinite().all()
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e3


def test_equal_graphs_have_zero_difference():
    student = channels(2, 9, 6, dtype=torch.float64)
    torch.testing.assert_close(terms(student, 3 * student), torch.zeros(3, 2, dtype=torch.float64), rtol=0, atol=1e-12)


def test_attention_is_share_of_absolute_activation():
    teacher = torch.tensor([[[1.0, -2.0, 0.0], [3.0, 2.0, 0.0]]])
    torch.testing.assert_close(channel_attention(teacher), torch.tensor([[0.5, 0.5, 0.0]]))
    assert (channel_attention(torch.zeros(1, 2, 3)) == 0).all()


def test_autocast_changes_nothing():
    student, teacher = channels(2, 16, 8), channels(2, 16, 8, seed=1)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = terms(student, teacher)
    torch.testing.assert_close(inside, terms(student, teacher), rtol=0, atol=0)


@pytest.mark.parametrize('value', [torch.nan, torch.inf])
def test_a_token_that_is_not_finite_spoils_its_image_alone(value):
    vertices = channels(3, 16, 5)
    vertices[1, 4, 2] = value
    assert spectral_embedding(vertices, 0.05).isnan().flatten(1).any(dim=1).tolist() == [False, True, False]
