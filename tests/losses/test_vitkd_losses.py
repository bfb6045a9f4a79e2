import formulas
import pytest
import torch
from builders import build_distiller, images, labels
from mmpretrain.registry import MODELS

from serkd_mm.seeding import seeded

NAMES = ['ViTKDMimickingLoss', 'ViTKDGenerationLoss']


def tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(name, **settings):
    return MODELS.build(dict(type=name, **settings))


def layers_of(loss):
    """Weight and bias of the map, the mask token, and those of both convolutions."""
    first, _, second = loss.generator.convs
    parts = (loss.projector.weight, loss.projector.bias, loss.generator.mask_token)
    return [*parts, first.weight, first.bias, second.weight, second.bias]


def masked_tokens(loss, student):
    """The mask of a call under the seed 3."""
    with seeded(3):
        return loss._mask(student)


def assert_same_gradients(actual, expected, tensors):
    for one, other in zip(torch.autograd.grad(actual, tensors), torch.autograd.grad(expected, tensors), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('shape', [(2, 6, 4, 5), (1, 1, 3, 3)])
def test_mimicking_equals_its_formula(shape):
    batch, length, *channels = shape
    student, teacher = (tensor(batch, length, width, seed=width) for width in channels)
    student.requires_grad_()
    loss = build('ViTKDMimickingLoss', loss_weight=0.7)
    value = loss(student, teacher)
    weight, bias = loss.projector.weight, loss.projector.bias
    expected = 0.7 * formulas.vitkd_mimicking(student, teacher, weight, bias)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    assert_same_gradients(value, expected, [student, weight, bias])


@pytest.mark.parametrize(('grid', 'batch', 'mask_ratio'), [((3, 3), 2, 0.5), ((2, 5), 1, 0.3), ((1, 4), 3, 0.75)])
def test_generation_equals_its_formula(grid, batch, mask_ratio):
    length = grid[0] * grid[1]
    student, teacher = tensor(batch, length, 4).requires_grad_(), tensor(batch, length, 5, seed=1)
    settings = {} if grid[0] == grid[1] else dict(grid=grid)
    loss = build('ViTKDGenerationLoss', mask_ratio=mask_ratio, loss_weight=0.7, **settings)
    loss(student, teacher)
    assert not loss.generator.mask_token.any()
    torch.nn.init.normal_(loss.generator.mask_token, generator=torch.Generator().manual_seed(2))
    with seeded(3):
        value = loss(student, teacher)
    layers = layers_of(loss)
    expected = 0.7 * formulas.vitkd_generation(student, teacher, masked_tokens(loss, student), grid, layers, mask_ratio)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    assert_same_gradients(value, expected, [student, *layers])


@pytest.mark.parametrize(('length', 'mask_ratio', 'kept'), [(49, 0.5, 24), (49, 0.3, 34), (196, 0.5, 98), (2, 0.5, 1)])
def test_mask_leaves_the_same_number_of_each_image_and_is_drawn_by_the_seed(length, mask_ratio, kept):
    loss, tokens = build('ViTKDGenerationLoss', mask_ratio=mask_ratio), tensor(16, length, 1)
    masked = masked_tokens(loss, tokens)
    assert masked.sum(dim=1).tolist() == [length - kept] * 16
    assert torch.equal(masked, masked_tokens(loss, tokens))
    assert not torch.equal(masked, loss._mask(tokens))
    assert len(masked.unique(dim=0)) > 1
    if length > 40:
        assert len(masked.unique(dim=0)) == 16
        drawn = torch.stack([loss._mask(tokens) for _ in range(40)]).float().mean(dim=(0, 1))
        assert (drawn - (length - kept) / length).abs().max() < 0.12  # Any token is as likely to be replaced.


def test_replaced_tokens_do_not_reach_the_loss():
    loss, student, teacher = build('ViTKDGenerationLoss'), tensor(2, 9, 4).requires_grad_(), tensor(2, 9, 5, seed=1)
    with seeded(3):
        value = loss(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    assert ((gradient.abs().sum(dim=2) == 0) == masked_tokens(loss, student)).all()


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_values_are_float32_and_the_teacher_receives_no_gradient(name, dtype):
    student, teacher = ((100 * tensor(2, 49, width)).to(dtype).requires_grad_() for width in (8, 12))
    loss = build(name, loss_weight=1.0)
    with torch.autocast('cpu', torch.bfloat16, enabled=dtype == torch.bfloat16):
        value = loss(student, teacher)
    value.backward()
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert value > 65504  # A sum that float16 could not hold.
    assert {weight.dtype for weight in loss.parameters()} == {torch.float32}
    assert student.grad.isfinite().all()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize('name', NAMES)
def test_unequal_tokens_raise(name):
    for student, teacher in [((2, 9, 8), (2, 4, 8)), ((2, 9, 8), (3, 9, 8)), ((2, 8), (2, 8))]:
        with pytest.raises(ValueError, match=rf'{name} compares tokens .* of equal B and L'):
            build(name)(tensor(*student), tensor(*teacher))
    loss = build(name)
    loss(tensor(2, 9, 8), tensor(2, 9, 12))
    with pytest.raises(ValueError, match=r'projector was built for \(8, 12\)'):
        loss(tensor(2, 9, 8), tensor(2, 9, 13))


def test_wrong_settings_and_grids_raise():
    for ratio in (0, 1, 1.5, True, 'half', float('nan')):
        with pytest.raises(ValueError, match='mask_ratio must be a number between 0 and 1'):
            build('ViTKDGenerationLoss', mask_ratio=ratio)
    with pytest.raises(ValueError, match='grid must be a positive integer or a pair'):
        build('ViTKDGenerationLoss', grid=(2, 0))
    for settings, problem in [
        ({}, '8 tokens do not form a square'),
        (dict(grid=(3, 3)), r'8 tokens do not form grid=\(3, 3'),
    ]:
        with pytest.raises(ValueError, match=problem):
            build('ViTKDGenerationLoss', **settings)(tensor(2, 8, 4), tensor(2, 8, 4))
    with pytest.raises(ValueError, match=r'mask_ratio=0\.9 leaves 0 of 4 tokens'):
        build('ViTKDGenerationLoss', mask_ratio=0.9)(tensor(2, 4, 4), tensor(2, 4, 4))


def test_in_a_distiller_with_the_sum_of_two_blocks_and_a_class_token():
    """ViTKD as a config has it: two early taps at twice the weight, the last block, and layers saved under distill."""
    taps = {f'block{number}': f'backbone.layers[{number}]' for number in (0, 1)}
    views = dict(
        early=dict(taps=['block0', 'block1'], tokenizer=dict(type='PatchTokenizer'), merger=dict(type='IdentityMerger')),
        last=dict(tap='block1', tokenizer=dict(type='PatchTokenizer'), merger=dict(type='IdentityMerger')),
        class_token=dict(tap='block1', tokenizer=dict(type='ClassTokenizer'), merger=dict(type='IdentityMerger')),
    )
    losses = dict(
        loss_mimicking=dict(type='ViTKDMimickingLoss', on='early', loss_weight=6e-5),
        loss_generation=dict(type='ViTKDGenerationLoss', on='last'),
        loss_class=dict(type='FeatureL2Loss', on='class_token', loss_weight=0.05),
        loss_kd=None,
    )
    changes = dict(student__taps=taps, teacher__taps=taps, views=views, losses=losses)
    model = build_distiller(**changes, student__model__head__distilled_training=False)
    student, teacher = model.extract_features(images())
    values = model(images(), labels(), mode='loss')
    parts = [
        3e-5
        * formulas.vitkd_mimicking(
            student[tap].tensor[:, 2:], teacher[tap].tensor[:, 1:], loss.projector.weight, loss.projector.bias
        )
        for tap, loss in model.distill.losses.loss_mimicking.items()
    ]
    torch.testing.assert_close(values['loss_mimicking'].double(), sum(parts), rtol=1e-4, atol=0)
    loss = model.distill.losses.loss_class.block1
    error = loss.projector(student['block1'].tensor[:, 0]) - teacher['block1'].tensor[:, 0]
    torch.testing.assert_close(values['loss_class'], 0.05 * error.square().mean(), rtol=1e-5, atol=0)
    saved = {name for name in model.state_dict() if name.startswith('distill.losses.loss_generation.block1.')}
    assert {name.removeprefix('distill.losses.loss_generation.block1.') for name in saved} == {
        'projector.weight',
        'projector.bias',
        'generator.mask_token',
        *(f'generator.convs.{number}.{part}' for number in (0, 2) for part in ('weight', 'bias')),
    }
    sum(values.values()).backward()
    assert all(weight.grad is not None for weight in model.distill.parameters())
