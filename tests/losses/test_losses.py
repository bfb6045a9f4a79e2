import math

import pytest
import torch
from mmpretrain.registry import MODELS

from serkd_mm.ops import reference

TOKEN_LOSSES = ['TokenDistanceLoss', 'TokenAngleLoss', 'FeatureL2Loss']


def tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(name, **settings):
    return MODELS.build(dict(type=name, **settings))


@pytest.mark.parametrize(
    ('name', 'expected_loss'),
    [('TokenDistanceLoss', reference.distance_relation_loss), ('TokenAngleLoss', reference.angle_relation_loss)],
)
@pytest.mark.parametrize('loss_weight', [1.0, 0.5, 0])
def test_relation_losses_equal_the_weighted_reference(name, expected_loss, loss_weight):
    student, teacher = tensor(2, 9, 8), tensor(2, 9, 12, seed=1)
    loss = build(name, loss_weight=loss_weight)(student, teacher)
    assert loss.ndim == 0
    expected = loss_weight * expected_loss(student.double(), teacher.double())
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize('tau', [1.0, 0.5, 4])
@pytest.mark.parametrize('batch', [1, 3])
def test_kl_equals_mean_of_equation_13_times_tau_squared(tau, batch):
    student, teacher = 3 * tensor(batch, 5), 3 * tensor(batch, 5, seed=1)
    student.requires_grad_()
    loss = build('LogitKLLoss', tau=tau, loss_weight=0.7)(student, teacher)
    expected = 0.0
    gradient = torch.zeros(batch, 5, dtype=torch.float64)
    for image in range(batch):
        p_teacher = [math.exp(x / tau) for x in teacher[image].tolist()]
        p_student = [math.exp(x / tau) for x in student[image].tolist()]
        p_teacher = [p / sum(p_teacher) for p in p_teacher]
        p_student = [p / sum(p_student) for p in p_student]
        expected += sum(t * math.log(t / s) for t, s in zip(p_teacher, p_student, strict=True))
        gradient[image] = torch.tensor(p_student, dtype=torch.float64) - torch.tensor(p_teacher, dtype=torch.float64)
    loss.backward()
    assert loss.item() == pytest.approx(0.7 * tau**2 * expected / batch, rel=1e-5)
    torch.testing.assert_close(student.grad.double(), 0.7 * tau * gradient / batch, rtol=1e-4, atol=1e-7)


def test_kl_is_zero_for_equal_predictions_and_finite_for_extreme_ones():
    logits = tensor(3, 7)
    assert build('LogitKLLoss')(logits, logits + 5).item() == pytest.approx(0, abs=1e-6)
    extreme = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    assert build('LogitKLLoss')(extreme, -extreme).isfinite()


def test_feature_loss_is_squared_error_of_projected_tokens():
    loss = build('FeatureL2Loss', loss_weight=2.0)
    student, teacher = tensor(2, 9, 8).requires_grad_(), tensor(2, 9, 12, seed=1)
    value = loss(student, teacher)
    weight, bias = loss.projector.weight.double(), loss.projector.bias.double()
    expected = (student.double() @ weight.T + bias - teacher.double()).square().mean()
    torch.testing.assert_close(value.double(), 2 * expected, rtol=1e-5, atol=0)
    value.backward()
    assert loss.projector.weight.grad.abs().sum() > 0
    assert student.grad.abs().sum() > 0


def test_projector_of_feature_loss_is_built_at_the_first_call_and_kept():
    loss = build('FeatureL2Loss')
    assert not loss.state_dict()
    loss(tensor(2, 9, 8), tensor(2, 9, 12))
    projector = loss.projector
    loss(tensor(1, 4, 8), tensor(1, 4, 12))
    assert loss.projector is projector
    with pytest.raises(ValueError, match=r'FeatureL2Loss\.projector was built for \(8, 12\)'):
        loss(tensor(2, 9, 8), tensor(2, 9, 13))


@pytest.mark.parametrize('name', [*TOKEN_LOSSES, 'LogitKLLoss'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_teacher_receives_no_gradient_and_values_are_float32(name, dtype):
    shape = (3, 8) if name == 'LogitKLLoss' else (3, 9, 8)
    student, teacher = (tensor(*shape, seed=seed).to(dtype).requires_grad_() for seed in (0, 1))
    loss = build(name)(student, teacher)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize('name', TOKEN_LOSSES)
def test_sides_of_different_length_raise(name):
    with pytest.raises(ValueError, match=r'equal B and L'):
        build(name)(tensor(2, 9, 8), tensor(2, 4, 8))


@pytest.mark.parametrize('shape', [(3, 6), (2, 5), (3, 5, 1)])
@pytest.mark.parametrize('name', ['LogitKLLoss', 'HardLabelLoss'])
def test_logits_of_other_classes_raise(name, shape):
    with pytest.raises(ValueError, match='same K classes'):
        build(name)(tensor(3, 5), tensor(*shape))


@pytest.mark.parametrize('name', [*TOKEN_LOSSES, 'LogitKLLoss'])
@pytest.mark.parametrize('loss_weight', [-1.0, math.inf, math.nan, '1', None])
def test_wrong_weights_raise_when_built(name, loss_weight):
    with pytest.raises(ValueError, match='loss_weight must be'):
        build(name, loss_weight=loss_weight)


@pytest.mark.parametrize('tau', [0, -1.0, math.nan, math.inf, 'warm'])
def test_wrong_temperatures_raise_when_built(tau):
    with pytest.raises(ValueError, match='tau must be'):
        build('LogitKLLoss', tau=tau)


@pytest.mark.parametrize(
    ('name', 'expected_loss'),
    [('InstanceDistanceLoss', reference.distance_relation_loss), ('InstanceAngleLoss', reference.angle_relation_loss)],
)
@pytest.mark.parametrize('shape', [(6, 8), (6, 2, 2, 2)])
def test_instance_losses_relate_the_images_of_the_batch(name, expected_loss, shape):
    student, teacher = tensor(*shape).requires_grad_(), tensor(6, 12, seed=1)
    loss = build(name, loss_weight=0.3)(student, teacher)
    as_tokens = student.detach().double().flatten(1)[None].requires_grad_()
    expected = 0.3 * expected_loss(as_tokens, teacher.double()[None])
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(student.grad.double().flatten(1), as_tokens.grad[0], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize('name', ['InstanceDistanceLoss', 'InstanceAngleLoss'])
def test_instance_losses_of_a_single_image_are_zero_and_mismatched_batches_raise(name):
    student = tensor(1, 8).requires_grad_()
    loss = build(name)(student, tensor(1, 4))
    loss.backward()
    assert loss == 0
    assert (student.grad == 0).all()
    with pytest.raises(ValueError, match='equal B and L'):
        build(name)(tensor(2, 8), tensor(3, 8))
    with pytest.raises(ValueError, match='features'):
        build(name)(tensor(2), tensor(2))


def test_hard_labels_are_the_predictions_of_the_teacher():
    student, teacher = tensor(4, 5).requires_grad_(), tensor(4, 5, seed=1)
    loss = build('HardLabelLoss', loss_weight=0.5)(student, teacher)
    log_prob = student.double().log_softmax(dim=1)
    expected = -sum(log_prob[image, teacher[image].argmax()] for image in range(4)) / 4
    torch.testing.assert_close(loss.double(), 0.5 * expected, rtol=1e-5, atol=0)
    loss.backward()
    (gradient,) = torch.autograd.grad(0.5 * expected, student)
    torch.testing.assert_close(student.grad, gradient, rtol=1e-5, atol=1e-8)
