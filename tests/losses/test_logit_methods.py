"""DIST, DKD and NKD against their formulas in float64."""

import formulas
import pytest
import torch
import torch.nn.functional as F
from mmpretrain.registry import MODELS

LOSSES = {
    'DISTLoss': dict(beta=2.0, gamma=0.7),
    'DKDLoss': dict(alpha=1.5, beta=8.0),
    'NKDLoss': dict(gamma=1.5),
}
DECOUPLED = ['DKDLoss', 'NKDLoss']
FORMULAS = {'DISTLoss': formulas.formula_dist, 'DKDLoss': formulas.formula_dkd, 'NKDLoss': formulas.formula_nkd}


def logits_of(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(name, **settings):
    return MODELS.build(dict(type=name, **{**LOSSES[name], **settings}))


def compare(name, student, teacher, classes, **settings):
    """Return the loss for one-hot labels of these classes."""
    labels = F.one_hot(torch.tensor(classes), student.shape[1]).float()
    loss = build(name, **settings)
    return loss(student, teacher, *([labels] if loss.needs_labels else []))


def expected(name, student, teacher, classes, **settings):
    """Evaluate the formula in float64."""
    extra = [classes] if name in DECOUPLED else []
    return FORMULAS[name](student.double(), teacher.double(), *extra, **{**LOSSES[name], 'tau': 1.0, **settings})


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize(('batch', 'classes', 'tau'), [(4, 5, 1.0), (3, 6, 4.0), (1, 5, 0.5), (3, 2, 2.0)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_value_and_gradient_equal_the_formula(name, batch, classes, tau, dtype):
    teacher = logits_of(batch, classes, seed=1).to(dtype).requires_grad_()
    student = logits_of(batch, classes).to(dtype).requires_grad_()
    own = teacher.argmax(dim=1).tolist()  # The class that the teacher predicts, and one that it does not.
    own[-1] = (own[-1] + 1) % classes
    loss = compare(name, student, teacher, own, tau=tau, loss_weight=0.5)
    value = 0.5 * expected(name, student, teacher.detach(), own, tau=tau)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), value, rtol=1e-5, atol=1e-7)
    loss.backward()
    (gradient,) = torch.autograd.grad(value, student)
    assert teacher.grad is None
    torch.testing.assert_close(student.grad, gradient, rtol=1e-4 if dtype == torch.float32 else 1e-2, atol=1e-6)


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('student', [[100.0, -100.0, 0.0], [-1e4, 1e4, 0.0], [0.0, 0.0, 0.0]])
@pytest.mark.parametrize('teacher', [[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]])
def test_certain_and_constant_predictions_are_finite(name, student, teacher):
    student, teacher = torch.tensor([student] * 2).requires_grad_(), torch.tensor([teacher] * 2)
    loss = compare(name, student, teacher, [0, 1])
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize('name', DECOUPLED)
def test_the_other_classes_are_compared_where_their_probability_underflows(name):
    student, teacher = (torch.tensor([[200.0, *other]]) for other in ([1.0, 2.0, 0.0], [0.0, 1.0, 3.0]))
    student.requires_grad_()
    loss = compare(name, student, teacher, [0])
    torch.testing.assert_close(loss.double(), expected(name, student, teacher, [0]), rtol=1e-5, atol=1e-7)
    loss.backward()
    assert (student.grad[0, 1:].abs() > 1e-2).all()


@pytest.mark.parametrize('name', LOSSES)
def test_a_shift_of_the_logits_of_an_image_changes_nothing(name):
    student, teacher = logits_of(5, 6), logits_of(5, 6, seed=1)
    shifted = [logits + logits_of(5, 1, seed=2) for logits in (student, teacher)]
    classes = [0, 1, 2, 3, 4]
    torch.testing.assert_close(compare(name, *shifted, classes), compare(name, student, teacher, classes))


@pytest.mark.parametrize('name', LOSSES)
def test_equal_predictions_have_no_gradient_except_with_nkd(name):
    student = logits_of(5, 6).requires_grad_()
    loss = compare(name, student, student.detach(), [0, 1, 2, 3, 4])
    loss.backward()
    if name == 'NKDLoss':
        assert (student.grad.diagonal() < -1e-4).all()
        return
    torch.testing.assert_close(student.grad, torch.zeros_like(student), rtol=0, atol=1e-6)
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_correlations_are_those_of_probabilities_whatever_their_scale():
    teacher = logits_of(4, 6).softmax(dim=1)
    student = (0.5 * teacher + 0.5 / 6).log()  # Half as confident in every image.
    assert compare('DISTLoss', student, teacher.log(), [0] * 4).item() == pytest.approx(0, abs=1e-5)
    assert compare('DISTLoss', student, teacher.log(), [0] * 4, tau=2.0).item() > 1e-4


def test_one_image_has_no_relation_to_others():
    student, teacher = logits_of(1, 6).requires_grad_(), logits_of(1, 6, seed=1)
    loss = build('DISTLoss', beta=0.0, gamma=3.0)(student, teacher)
    loss.backward()
    assert loss == 3
    assert (student.grad == 0).all()


@pytest.mark.parametrize('name', DECOUPLED)
def test_class_of_a_mixed_label_is_the_larger_share_and_the_first_of_equal_ones(name):
    student, teacher = logits_of(3, 4), logits_of(3, 4, seed=1)
    labels = torch.tensor([[0.1, 0.2, 0.0, 0.7], [0.0, 0.5, 0.5, 0.0], [0.25, 0.25, 0.25, 0.25]])
    assert torch.equal(build(name)(student, teacher, labels), compare(name, student, teacher, [3, 1, 0]))


@pytest.mark.parametrize('name', LOSSES)
def test_shapes_that_do_not_fit_raise(name):
    labels = (torch.ones(3, 5),) if name in DECOUPLED else ()
    with pytest.raises(ValueError, match='same K classes'):
        build(name)(logits_of(3, 5), logits_of(3, 6), *labels)
    for shape in [(3, 4), (2, 5)] if labels else ():
        with pytest.raises(ValueError, match=r'needs labels \(B, K\)'):
            build(name)(logits_of(3, 5), logits_of(3, 5), torch.ones(shape))
    if labels:
        with pytest.raises(ValueError, match='at least two'):
            build(name)(logits_of(3, 1), logits_of(3, 1), torch.ones(3, 1))


@pytest.mark.parametrize(('name', 'setting'), [(name, setting) for name in LOSSES for setting in [*LOSSES[name], 'tau']])
@pytest.mark.parametrize('value', [-1.0, float('nan'), '1', None, True])
def test_wrong_settings_raise_when_built(name, setting, value):
    with pytest.raises(ValueError, match=f'{setting} must be'):
        build(name, **{setting: value})


def test_defaults_are_those_of_the_papers_and_the_loss_can_be_scheduled():
    dist, dkd, nkd = (MODELS.build(dict(type=name)) for name in LOSSES)
    assert (dist.beta, dist.gamma, dist.tau, dist.needs_labels) == (1, 1, 1, False)
    assert (dkd.alpha, dkd.beta, dkd.tau, dkd.needs_labels) == (1, 0.5, 1, True)
    assert (nkd.gamma, nkd.tau, nkd.needs_labels) == (1.5, 1, True)
    scheduled = build('DKDLoss', loss_weight=dict(type='Linear', begin=0.0, end=2.0))
    scheduled.set_progress(0.5)
    assert scheduled.loss_weight == 1
