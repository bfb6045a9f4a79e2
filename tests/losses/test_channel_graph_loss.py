import math

import pytest
import torch
from formulas import sekd_terms
from mmpretrain.registry import MODELS

import serkd_mm  # noqa: F401


def tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(**settings):
    torch.manual_seed(0)
    return MODELS.build(dict(type='ChannelGraphLoss', **settings))


def by_definition(loss, student, teacher, weights, cutoff=0.01):
    """The weighted sum of the three terms, averaged over the images, in float64."""
    mapped = student.double() @ loss.projector.weight.double().T + loss.projector.bias.double()
    images = [torch.stack(sekd_terms(s, t, cutoff)) for s, t in zip(mapped, teacher.double(), strict=True)]
    return (torch.stack(images) * torch.tensor(weights, dtype=torch.float64)).sum(dim=1).mean()


@pytest.mark.parametrize('weights', [(1, 1, 1), (2.0, 0.5, 3.0), (1, 0, 0), (0, 1, 0), (0, 0, 1)])
@pytest.mark.parametrize('shape', [(2, 9), (1, 4)])
def test_value_and_gradient_equal_the_definition(weights, shape):
    names = ('vertex_weight', 'edge_weight', 'spectral_weight')
    loss = build(**dict(zip(names, weights, strict=True)), loss_weight=0.5)
    student, teacher = tensor(*shape, 5).requires_grad_(), tensor(*shape, 7, seed=1).requires_grad_()
    value = loss(student, teacher)
    assert (value.ndim, value.dtype) == (0, torch.float32)
    expected = 0.5 * by_definition(loss, student, teacher.detach(), weights)
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-6)
    wanted = (student, loss.projector.weight)
    actual = torch.autograd.grad(value, wanted)
    for one, other in zip(actual, torch.autograd.grad(expected, wanted), strict=True):
        torch.testing.assert_close(one, other.to(one), rtol=1e-3, atol=1e-5)
    assert teacher.grad is None


def test_maps_are_read_as_tokens():
    loss = build()
    student, teacher = tensor(2, 5, 3, 4), tensor(2, 7, 3, 4, seed=1)
    from_maps = loss(student, teacher)
    torch.testing.assert_close(from_maps, loss(student.flatten(2).mT, teacher.flatten(2).mT))


def test_projector_is_built_once_and_has_the_only_weights():
    loss = build()
    assert not loss.state_dict()
    loss(tensor(2, 9, 5), tensor(2, 9, 7))
    projector = loss.projector
    loss(tensor(1, 4, 5), tensor(1, 4, 7))
    assert loss.projector is projector
    assert set(loss.state_dict()) == {'projector.weight', 'projector.bias'}
    with pytest.raises(ValueError, match=r'ChannelGraphLoss\.projector was built for \(5, 7\)'):
        loss(tensor(2, 9, 6), tensor(2, 9, 7))


@pytest.mark.parametrize('constant', [0.0, 1.0])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_constant_feature_maps_have_finite_gradients(constant, dtype):
    loss = build()
    student = torch.full((2, 5, 4, 4), constant, dtype=dtype, requires_grad=True)
    for teacher in (tensor(2, 7, 4, 4).to(dtype), torch.full((2, 7, 4, 4), constant, dtype=dtype)):
        loss.zero_grad()
        student.grad = None
        value = loss(student, teacher)
        value.backward()
        assert value.isfinite()
        assert student.grad.isfinite().all()
        assert loss.projector.weight.grad.isfinite().all()


def test_loss_can_be_minimized():
    loss, teacher = build(), tensor(2, 9, 6, seed=1)
    student = tensor(2, 9, 6).requires_grad_()
    loss(student, teacher)
    optimizer = torch.optim.Adam([student, *loss.parameters()], lr=0.03)
    values = []
    for _ in range(150):
        optimizer.zero_grad()
        values.append(loss(student, teacher))
        values[-1].backward()
        optimizer.step()
    assert values[-1] < 0.02 * values[0]


@pytest.mark.parametrize('name', ['vertex_weight', 'edge_weight', 'spectral_weight', 'loss_weight'])
@pytest.mark.parametrize('weight', [-1.0, math.inf, math.nan, '1', None])
def test_wrong_weights_raise_when_built(name, weight):
    with pytest.raises(ValueError, match=f'{name} must be'):
        build(**{name: weight})


@pytest.mark.parametrize('cutoff', [0, 1, -0.1, math.nan, 'x'])
def test_wrong_cutoffs_raise_when_built(cutoff):
    with pytest.raises(ValueError, match='spectral_cutoff must be'):
        build(spectral_cutoff=cutoff)


def test_all_weights_zero_raises():
    with pytest.raises(ValueError, match='all 0'):
        build(vertex_weight=0, edge_weight=0, spectral_weight=0)


@pytest.mark.parametrize(('student', 'teacher'), [((2, 9, 5), (2, 4, 5)), ((3, 9, 5), (2, 9, 5)), ((2, 5), (2, 5))])
def test_mismatched_shapes_raise(student, teacher):
    with pytest.raises(ValueError, match='ChannelGraphLoss compares'):
        build()(tensor(*student), tensor(*teacher))
