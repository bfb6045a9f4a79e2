"""Several teachers: a step is the sum of the steps with each; a view, or a loss on a tap, names its teacher."""

import copy
import re

import pytest
import torch
from builders import NUM_CLASSES, TEACHER, build_distiller, distiller_config, images, labels
from mmpretrain.registry import MODELS

from serkd_mm.config_errors import ConfigError

_TOKENS = dict(tap='patches', tokenizer=dict(type='PatchTokenizer'))
_POOLED = dict(_TOKENS, merger=dict(type='AvgPoolMerger', grid=2))
_SUPERPIXELS = dict(_TOKENS, merger=dict(type='SuperpixelMerger', grid=2))
LOSSES_OF = {'dino': ['loss_kd', 'loss_rd'], 'clip': ['loss_feat', 'loss_ra', 'loss_patches']}


def pair_config(**changes) -> dict:
    """Return the config of a student with two teachers of another size, normalization and precision."""
    model = distiller_config()
    dino = dict(model.pop('teacher'))
    # A wider net for larger images, with statistics of its own, in bfloat16.
    clip = copy.deepcopy(dict(TEACHER, data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)))
    clip['backbone'].update(img_size=48, arch=dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64))
    clip['head']['in_channels'] = 32
    model.teachers = dict(dino=dino, clip=dict(dino, model=clip, input_size=48, autocast_dtype='bfloat16'))
    model.views = dict(
        superpixels=dict(_SUPERPIXELS, teacher='dino'),
        tokens=dict(_POOLED, teacher='clip'),
        regions=dict(_SUPERPIXELS, teacher='clip'),
    )
    model.losses = dict(
        loss_kd=dict(type='LogitKLLoss', on='logits', teacher='dino'),
        loss_rd=dict(type='TokenDistanceLoss', on='superpixels', loss_weight=0.5),
        loss_feat=dict(type='FeatureL2Loss', on='tokens'),
        loss_ra=dict(type='TokenAngleLoss', on='regions', teacher='clip'),
        loss_patches=dict(type='LogitKLLoss', on='logits', teacher='clip', tau=2.0),
    )
    for path, value in changes.items():
        owner = model
        *parents, name = path.split('__')
        for parent in parents:
            owner = owner[parent]
        owner[name] = value
    return model


def single_config(name: str) -> dict:
    """Return the config of the same student with one of the teachers, as configs have always named one."""
    model = pair_config()
    model.teacher = model.pop('teachers')[name]
    model.views = {view: settings for view, settings in model.views.items() if settings.pop('teacher') == name}
    model.losses = {loss: model.losses[loss] for loss in LOSSES_OF[name]}
    for settings in model.losses.values():
        settings.pop('teacher', None)
    return model


def step(model) -> tuple[dict, dict]:
    """Return the losses and the gradients of the student."""
    weight = next(model.parameters())
    losses = model(images().to(weight), labels(), mode='loss')
    model.zero_grad()
    sum(losses.values()).backward()
    gradients = {name: weight.grad for name, weight in model.student.named_parameters()}
    return losses, {name: torch.zeros(()) if grad is None else grad.clone() for name, grad in gradients.items()}


def singles_of(several) -> dict:
    """Build the models with one teacher each, with the weights of the one with several."""
    singles = {}
    for name in LOSSES_OF:
        singles[name] = build_distiller(lambda name=name: single_config(name))
        found = singles[name].load_state_dict(several.state_dict(), strict=False)
        assert not found.missing_keys
        assert all(key.startswith('distill.') for key in found.unexpected_keys)
    return singles


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_a_step_is_the_sum_of_the_steps_with_each_teacher(dtype):
    several = build_distiller(pair_config)
    singles = singles_of(several)
    losses, gradients = step(several.to(dtype))
    assert list(losses) == ['loss_cls', *several.distill.losses]
    parts = {name: step(single.to(dtype)) for name, single in singles.items()}
    for name, (own, _) in parts.items():
        assert sorted(own) == sorted(['loss_cls', *LOSSES_OF[name]])
        assert all(torch.equal(losses[loss], value) for loss, value in own.items())  # Bit for bit.

    several.student.zero_grad()
    weight = next(several.parameters())
    several.student.loss(images().to(weight), labels())['loss'].backward()  # It is in the step with each.
    tolerance = dict(rtol=1e-10, atol=1e-12) if dtype == torch.float64 else dict(rtol=1e-4, atol=1e-6)
    for name, weight in several.student.named_parameters():
        expected = sum(part[name] for _, part in parts.values()) - (0 if weight.grad is None else weight.grad)
        torch.testing.assert_close(gradients[name], expected, **tolerance, msg=name)


def test_each_teacher_has_its_own_size_normalization_and_precision():
    model = build_distiller(pair_config)
    _, features = model.extract_features(images())
    assert {name: {tap: feature.tensor.shape for tap, feature in taps.items()} for name, taps in features.items()} == {
        'dino': {'patches': (4, 17, 24), 'logits': (4, NUM_CLASSES)},
        'clip': {'patches': (4, 37, 32), 'logits': (4, NUM_CLASSES)},
    }
    dino, clip = model.teachers['dino'], model.teachers['clip']
    assert dino.renormalize.identity
    assert not clip.renormalize.identity
    assert features['dino']['logits'].tensor.dtype == torch.float32
    assert features['clip']['logits'].tensor.dtype == torch.bfloat16
    assert model.teacher is None
    tokens = model.distill.tokens(*model.extract_features(images()))
    assert {view: [tuple(side.shape[1:]) for side in tokens[view]['patches']] for view in tokens} == {
        'superpixels': [(4, 16), (4, 24)],
        'tokens': [(4, 16), (4, 32)],
        'regions': [(4, 16), (4, 32)],
    }


def test_the_student_runs_once_and_teachers_are_no_submodules():
    model = build_distiller(pair_config)
    calls = []
    model.student.backbone.register_forward_hook(lambda *_: calls.append('student'))
    tokenizer = next(iter(model.distill.tokenizers.values()))
    tokenizer.student.register_forward_hook(lambda *_: calls.append('tokenizer'))
    for name, teacher in model.teachers.items():
        teacher.model.register_forward_pre_hook(lambda *_, name=name: calls.append(name))
    assert len(model.distill.tokenizers) == 1  # It runs once for each model, although three views read it.
    step(model)
    assert sorted(calls) == ['clip', 'dino', 'student', *['tokenizer'] * 3]
    copied = copy.deepcopy(model)
    assert all(copied.teachers[name] is teacher for name, teacher in model.teachers.items())
    own = {id(weight) for weight in model.parameters()}
    assert own.isdisjoint(id(weight) for teacher in model.teachers.values() for weight in teacher.parameters())
    assert not any('teacher' in name for name in model.state_dict())


def test_a_teacher_that_is_left_alone_needs_no_name():
    changes = dict(teachers__clip=None, views__tokens=None, views__regions=None, views__superpixels__teacher=None)
    losses = dict(losses__loss_feat=None, losses__loss_ra=None, losses__loss_patches=None, losses__loss_kd__teacher=None)
    model = build_distiller(pair_config, **changes, **losses)
    assert list(model.teachers) == ['dino']
    assert model.teacher is model.teachers['dino']
    assert set(model(images(), labels(), mode='loss')) == {'loss_cls', 'loss_kd', 'loss_rd'}


MISTAKES = [
    # settings, the start of the message, something else in the message
    (dict(views__tokens__teacher='clipp'), "model.views.tokens.teacher='clipp' is not one of model.teachers", "'clip'"),
    (dict(views__tokens__teacher=None), 'model.views.tokens.teacher is missing', "'clip', 'dino'"),
    (dict(losses__loss_kd__teacher='dinov2'), "model.losses.loss_kd.teacher='dinov2' is not", "'dino'"),
    (dict(losses__loss_kd__teacher=None), 'model.losses.loss_kd.teacher is missing', "'clip', 'dino'"),
    (dict(losses__loss_rd__teacher='clip'), "model.losses.loss_rd.teacher='clip': the loss is on", "reads 'dino'"),
    (dict(teachers__eva=dict(model=TEACHER)), 'model.teachers.eva: no loss reads this teacher', "teacher='eva'"),
    (dict(teacher=dict(model=TEACHER)), 'model has both teacher and teachers', 'None'),
    (dict(teachers=[1]), 'model.teachers must be a dict', '[1]'),
    (dict(teachers={}), 'model.teachers names no teacher', 'evaluation'),
    (dict(teachers={'dino-v2': dict(model=TEACHER)}), "model.teachers: 'dino-v2'", 'Rename'),
    (dict(teachers__clip=3), 'model.teachers.clip must be a dict', '3'),
    (dict(teachers__clip__cache='data/clip'), 'model.teachers.clip.cache: a cache holds the outputs of one teacher', 'None'),
    (
        dict(teachers__clip__checkpoint='no.pth', teachers__clip__allow_random_teacher=False),
        'model.teachers.clip.',
        'no.pth',
    ),
    (dict(teachers__clip__taps=dict(logits='head.fc')), 'model.teachers.clip.taps', "'patches'"),
    (dict(teachers__clip__model__backbone__in_channels=1), 'model.teachers.clip: a step on generated images', 'channels'),
    (dict(teachers__clip__dtype='half'), "model.teachers.clip.dtype='half'", 'float16'),
]


@pytest.mark.parametrize(('changes', 'start', 'part'), MISTAKES, ids=lambda value: next(iter(value), '')[:40])
def test_mistakes_name_the_teacher_and_what_is_valid(changes, start, part):
    with pytest.raises(ConfigError) as error:
        MODELS.build(pair_config(**changes))
    assert str(error.value).startswith(start)
    assert part in str(error.value)


def test_a_name_without_several_teachers_is_refused():
    for change, key in (('views__tokens', 'model.views.tokens'), ('losses__loss_kd', 'model.losses.loss_kd')):
        message = re.escape(f"{key}.teacher='dino' names one of several teachers")
        with pytest.raises(ConfigError, match=message):
            MODELS.build(distiller_config(**{f'{change}__teacher': 'dino'}))
