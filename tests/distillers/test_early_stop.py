"""The teacher stops after its last used tap: the same losses, with less computation."""

import pytest
import torch
from builders import build_distiller, cnn_distiller_config, distiller_config, images, labels, training_config
from mmpretrain.registry import MODELS

from serkd_mm.config_errors import ConfigError
from serkd_mm.distillers.cache_sources import build_source, build_teacher

NO_LOGITS = dict(losses__loss_kd=None, student__model__head__distilled_training=False)


def ran(model):
    """Count the runs of each module of the teacher, from now on."""
    counts = {}
    for name, module in model.teacher.model.named_modules():
        counts[name] = 0
        module.register_forward_pre_hook(lambda *_, name=name: counts.update({name: counts[name] + 1}))
    return counts


def step(model, early):
    """Return losses and gradients of a training step whose teacher stops early or runs to its end."""
    model.train().zero_grad()
    model.teacher.stops_early = early
    losses = model(images(), labels(), mode='loss')
    sum(losses.values()).backward()
    return losses, {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize(
    ('config', 'changes'),
    [
        (distiller_config, NO_LOGITS),
        (distiller_config, dict(NO_LOGITS, teacher__taps=dict(patches='backbone.layers[0]'))),
        (distiller_config, dict(NO_LOGITS, teacher__dtype='bfloat16')),
        (distiller_config, dict(NO_LOGITS, teacher__autocast_dtype='bfloat16')),
        (distiller_config, dict(NO_LOGITS, teacher__compile=dict(backend='eager'))),
        (cnn_distiller_config, dict(losses__loss_kd=None, teacher__channels_last=True)),
        (distiller_config, {}),
    ],
    ids=['no head', 'first block', 'stored in bfloat16', 'autocast', 'compiled', 'CNN', 'logits'],
)
def test_losses_and_gradients_are_those_of_a_whole_run(config, changes):
    model = build_distiller(config, **changes)
    assert model.teacher.stops_early
    early, whole = step(model, early=True), step(model, early=False)
    for one, other in zip(early, whole, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert not any(module._forward_hooks for module in model.teacher.modules())


def test_nothing_runs_after_the_last_used_tap():
    model = build_distiller(**NO_LOGITS, teacher__taps=dict(patches='backbone.layers[1]'))
    counts = ran(model)
    step(model, early=True)
    assert counts['backbone.layers.1'] == 1
    assert counts['backbone.layers.2'] == counts['head'] == 0
    model.extract_features(images())
    assert counts['backbone.layers.1'] == 2
    assert counts['backbone.layers.2'] == 0


def test_a_tap_that_runs_twice_is_found_by_the_whole_run_of_the_build():
    config = cnn_distiller_config(teacher__taps=dict(stage1='backbone.layer1[0].relu'), losses__loss_kd=None)
    for view in config.views.values():
        view.taps = ['stage1']
    with pytest.raises(ConfigError, match=r"model\.teacher\.taps\.stage1='backbone\.layer1\[0\]\.relu' runs more than once"):
        MODELS.build(config)


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_a_tap_that_is_modified_in_place_afterwards_is_refused(side):
    # With the inplace activation after it, the loss would read another feature, and another one if the teacher stops there.
    config = cnn_distiller_config(losses__loss_kd=None)
    config[side].taps = dict(stage1='backbone.layer1[0].bn1')
    for view in config.views.values():
        view.taps = ['stage1']
    with pytest.raises(
        ConfigError, match=rf"model\.{side}\.taps\.stage1='backbone\.layer1\[0\]\.bn1'.*modifies .* in place"
    ):
        MODELS.build(config)


def test_a_cache_is_made_with_a_teacher_that_stops(tmp_path):
    config = training_config(tmp_path, tmp_path / 'work')
    config.model = distiller_config(**NO_LOGITS, teacher__taps=dict(patches='backbone.layers[0]'))
    teacher = build_teacher([build_source('config.py', 'name', config, 'cache', 1, 0)], seed=0)
    assert teacher.stops_early
    early = teacher(images())
    teacher.stops_early = False
    whole = teacher(images())
    assert list(early) == list(whole) == ['backbone.layers[0]']
    assert torch.equal(early['backbone.layers[0]'].tensor, whole['backbone.layers[0]'].tensor)
