"""Settings of a loss that change over the training: their values, and what is wrong in a config."""

import math
import re

import pytest
from builders import build_distiller, distiller_config, images, labels
from mmpretrain.registry import MODELS

from serkd_mm.config_errors import ConfigError
from serkd_mm.losses import LogitKLLoss
from serkd_mm.losses.base_loss import check_weight
from serkd_mm.losses.schedules import build_schedule

FORMULAS = {
    'Linear': lambda p: 2.0 + (0.5 - 2.0) * p,
    'Cosine': lambda p: 0.5 + (2.0 - 0.5) * (1 + math.cos(math.pi * p)) / 2,
    'Step': lambda p: 2.0 if p < 1 else 0.5,
}


@pytest.mark.parametrize('until', [0.25, 0.5, 1.0])
@pytest.mark.parametrize('kind', FORMULAS)
def test_values_are_those_of_the_formula(kind, until):
    schedule = build_schedule('x', dict(type=kind, begin=2.0, end=0.5, until=until), check_weight)
    for progress in (0.0, 0.1, 0.24, 0.25, 0.5, 0.51, 0.99, 1.0):
        expected = FORMULAS[kind](min(progress / until, 1.0))
        assert schedule.at(progress) == pytest.approx(expected, rel=1e-12), progress
    assert (schedule.at(0), schedule.at(1)) == (2.0, 0.5)


def test_a_step_is_in_the_middle_and_other_schedules_end_with_the_training():
    assert build_schedule('x', dict(type='Step', begin=1, end=0), check_weight).until == 0.5
    assert build_schedule('x', dict(type='Cosine', begin=1, end=0), check_weight).until == 1.0
    assert 'Linear(1 to 0)' in repr(LogitKLLoss(loss_weight=dict(type='Linear', begin=1.0, end=0.0)))


LINEAR = dict(type='Linear', begin=1.0, end=0.0)
MISTAKES = [
    (dict(LINEAR, type='Linaer'), "loss_weight.type='Linaer' is not a schedule; use one of Linear, Cosine, Step"),
    (dict(begin=1.0, end=0.0), 'loss_weight.type=None is not a schedule'),
    (dict(type='Linear', begin=1.0), "loss_weight must be dict(type='Linear', begin=..., end=...)"),
    (dict(LINEAR, start=1.0), "loss_weight must be dict(type='Linear', begin=..., end=...), and may have 'until'"),
    (dict(LINEAR, end=-1.0), 'loss_weight.end must be a finite number that is not negative, but got -1.0'),
    (dict(LINEAR, begin='1'), "loss_weight.begin must be a finite number that is not negative, but got '1'"),
    (dict(LINEAR, until=0), 'loss_weight.until must be a part of the training, above 0 and up to 1, but got 0'),
    (dict(LINEAR, until=1.5), 'loss_weight.until must be a part of the training'),
]


@pytest.mark.parametrize(('schedule', 'message'), MISTAKES)
@pytest.mark.parametrize('name', ['loss_kd', 'loss_cls'])
def test_mistakes_in_a_schedule_have_its_config_key(name, schedule, message):
    losses = {'losses__loss_cls': dict(loss_weight=schedule), 'losses__loss_kd__loss_weight': schedule}
    path = next(path for path in losses if name in path)
    with pytest.raises(ConfigError, match=f'^{re.escape(f"model.losses.{name}.{message}")}'):
        MODELS.build(distiller_config(**{path: losses[path]}))


def test_a_schedule_that_nothing_moves_is_refused_and_set_progress_moves_all():
    weights = dict(loss_kd=LINEAR, loss_rd=dict(type='Step', begin=0.0, end=3.0))
    changes = {f'losses__{name}__loss_weight': weight for name, weight in weights.items()}
    model = build_distiller(**changes, losses__loss_cls=dict(loss_weight=dict(type='Cosine', begin=0.0, end=1.0)))
    hook = r"^model\.losses\.loss_kd\.loss_weight is a schedule.*dict\(type='LossScheduleHook'\).*model\.set_progress\("
    with pytest.raises(ConfigError, match=hook):
        model(images(), labels(), mode='loss')
    constant = build_distiller(losses__loss_kd__loss_weight=1.0, losses__loss_rd__loss_weight=1.0)
    expected = constant(images(), labels(), mode='loss')
    for progress, factors in {0.0: (0, 1, 0), 0.75: (0.85355339, 0.25, 3), 1.0: (1, 0, 3)}.items():
        model.set_progress(progress)
        assert list(model.scheduled_settings()) == ['weight_kd', 'weight_rd', 'weight_cls']
        losses = model(images(), labels(), mode='loss')
        for name, factor in zip(('loss_cls', 'loss_kd', 'loss_rd'), factors, strict=True):
            assert losses[name].item() == pytest.approx(factor * expected[name].item(), rel=1e-5), (progress, name)
        assert losses['loss_feat'].item() == pytest.approx(expected['loss_feat'].item(), rel=1e-5)
