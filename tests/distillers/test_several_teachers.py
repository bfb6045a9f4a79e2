"""Several teachers: a step is the sum of the steps with each; a view, or a loss on a tap, names its teacher."""

import copy
import re
import runpy
import sys

import pytest
import torch
from builders import (
    NUM_CLASSES,
    REPOSITORY,
    TEACHER,
    build_distiller,
    distiller_config,
    images,
    labels,
    leave_ranks,
    run_forked,
    run_ranks,
    training_config,
)
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from torch import distributed

from serkd_mm.config_errors import ConfigError
from serkd_mm.distillers.cache_sources import build_source
from serkd_mm.fileio import conceal_teacher
from serkd_mm.runner import check_config
from serkd_mm.visualization import superpixels_of

_TOKENS = dict(tap='patches', tokenizer=dict(type='PatchTokenizer'))
_POOLED = dict(_TOKENS, merger=dict(type='AvgPoolMerger', grid=2))
_SUPERPIXELS = dict(_TOKENS, merger=dict(type='SuperpixelMerger', grid=2))
NUM_RANKS, BATCH = 2, 3
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


def pair_training(root, work_dir, **changes) -> Config:
    """Return the config of a training with both teachers."""
    config = training_config(root, work_dir, **changes)
    config.model = Config(dict(model=pair_config())).model
    return config


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


def test_pictures_show_the_teacher_of_the_view():
    model = build_distiller(pair_config).eval()
    singles = singles_of(model)
    for name, view in (('dino', 'superpixels'), ('clip', 'regions')):
        drawn, expected = (superpixels_of(built, images(1), view) for built in (model, singles[name]))
        assert drawn.keys() == expected.keys() == {'student', 'teacher'}
        for side, (own,) in drawn.items():
            assert torch.equal(own.labels, expected[side][0].labels)
            assert torch.equal(own.relations, expected[side][0].relations)


def test_a_cache_of_several_teachers_is_refused(tmp_path):
    config = pair_training(tmp_path, tmp_path / 'work')
    with pytest.raises(ConfigError, match=r'c\.py: model\.teachers names several teachers, and a cache holds'):
        build_source('c.py', 'c', config, str(tmp_path / 'cache'), num_views=1, seed=0)


def test_a_removed_teacher_must_exist_and_passwords_of_each_are_concealed(tmp_path):
    pair_training(tmp_path, tmp_path / 'work').dump(tmp_path / 'base.py')
    (tmp_path / 'child.py').write_text("_base_ = './base.py'\nmodel = dict(teachers=dict(clop=None))\n")
    config = Config.fromfile(tmp_path / 'child.py')
    with pytest.raises(ConfigError, match=r"model\.teachers\.clop=None removes nothing: .* Did you mean 'clip'"):
        check_config(config, config, None)
    config = pair_training(tmp_path, tmp_path / 'work')
    config.model.teachers.clip.checkpoint = 'https://mary:hush@example.org/clip.pth?token=quiet'
    conceal_teacher(config)
    assert not any(secret in config.pretty_text for secret in ('mary', 'hush', 'quiet'))


@pytest.mark.slow
@pytest.mark.usefixtures('runner_scope')
def test_a_training_with_several_teachers_resumes_and_is_evaluated_without_them(image_root, tmp_path, monkeypatch):
    hooks = [dict(type='EMAHook'), dict(type='SuperpixelVisualizationHook', view='regions', num_images=1, interval=2)]
    saved = {}
    for name in ('whole', 'parts'):
        for epochs in [2] if name == 'whole' else [1, 2]:
            changes = {'train_cfg.max_epochs': epochs, 'resume': epochs == 2 and name == 'parts'}
            config = pair_training(image_root, tmp_path / name, **changes)
            config.custom_hooks = [*config.custom_hooks, *hooks]
            Runner.from_cfg(config).train()
        saved[name] = torch.load(tmp_path / name / 'epoch_2.pth', weights_only=False)['state_dict']
    assert all(torch.equal(value, saved['parts'][key]) for key, value in saved['whole'].items())
    assert {key.split('.')[0] for key in saved['whole']} == {'backbone', 'head', 'distill'}
    assert len(list(tmp_path.glob('*/*/vis_data/vis_image/regions_0_2.png'))) == 2

    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')
    monkeypatch.syspath_prepend(REPOSITORY / 'tools')
    config.model.teachers.clip.update(checkpoint='is/not/here.pth', allow_random_teacher=False)
    runpy.run_path(str(REPOSITORY / 'tools' / 'test.py'))['adapt'](config)
    config.load_from, config.resume = str(tmp_path / 'whole' / 'epoch_2.pth'), False
    runner = Runner.from_cfg(config)
    assert 'accuracy/top1' in runner.test()
    assert runner.model.teachers == {}


@pytest.mark.slow
def test_describe_has_a_row_for_each_teacher(tmp_path):
    pair_training(tmp_path, tmp_path / 'work').dump(tmp_path / 'config.py')
    page = run_forked('tools/describe.py', tmp_path / 'config.py', COLUMNS='180')
    lines = [' '.join(line.split()) for line in page.splitlines()]
    for start in (
        'teacher dino VisionTransformer',
        'teacher clip VisionTransformer',
        'patches backbone.layers[-1] 18 x 16 dino: backbone.layers[-1] 17 x 24',
        'patches backbone.layers[-1] 18 x 16 clip: backbone.layers[-1] 37 x 32',
        'loss_kd LogitKLLoss logits (dino)',
        'loss_ra TokenAngleLoss regions (clip)',
        'nothing: a cache holds the outputs of one teacher',
        'model.teachers.dino.checkpoint is not set',
        'model.teachers.clip.checkpoint is not set',
    ):
        assert any(line.startswith(start) for line in lines), start


def gradients(model, inputs, data_samples):
    """Return the gradients of all trained parameters by name."""
    total, _ = model.parse_losses(model(inputs, data_samples, mode='loss'))
    total.backward()
    return {name: weight.grad for name, weight in model.named_parameters()}


def run_rank(rank, folder):
    """Take one step on the images of one rank under DDP, and save its gradients in ``folder``."""
    distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=NUM_RANKS)
    distiller = build_distiller(pair_config)
    model = MMDistributedDataParallel(distiller)  # find_unused_parameters is False
    part = slice(rank * BATCH, (rank + 1) * BATCH)
    total, _ = distiller.parse_losses(model(images(BATCH * NUM_RANKS)[part], labels(BATCH * NUM_RANKS)[part], mode='loss'))
    total.backward()
    torch.save({name: weight.grad for name, weight in distiller.named_parameters()}, f'{folder}/{rank}.pth')
    leave_ranks()


@pytest.mark.slow
def test_gradients_of_two_ranks_equal_those_of_one_process(tmp_path):
    run_ranks(__file__, NUM_RANKS, tmp_path)
    first, second = (torch.load(tmp_path / f'{rank}.pth', weights_only=True) for rank in range(NUM_RANKS))
    assert all(torch.equal(first[name], second[name]) for name in first)
    expected = gradients(build_distiller(pair_config), images(BATCH * NUM_RANKS), labels(BATCH * NUM_RANKS))
    assert first.keys() == expected.keys()
    for name, gradient in first.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-4 * expected[name].abs().max().item() + 1e-8)


if __name__ == '__main__':
    run_rank(int(sys.argv[2]), sys.argv[1])
