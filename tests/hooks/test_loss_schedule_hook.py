"""LossScheduleHook: values by iteration, their log, and validations in between; test_exact_resuming has schedules, too."""

import json

import pytest
from builders import training_config
from mmengine.runner import Runner

pytestmark = pytest.mark.usefixtures('runner_scope')

KD = {'type': 'LogitKLLoss', 'on': 'logits'}
CHANGES = {
    'model.losses.loss_cls': {'loss_weight': {'type': 'Step', 'begin': 1.0, 'end': 0.5}},
    'model.losses.loss_moved': {**KD, 'loss_weight': {'type': 'Linear', 'begin': 1.0, 'end': 0.0}},
    'model.losses.loss_rd': None,
    'model.losses.loss_ra': None,
    'val_evaluator': [{'type': 'DistillationLosses'}],
}


def test_values_follow_the_iterations_and_are_logged_and_a_validation_has_those_of_its_moment(image_root, tmp_path):
    settings = {'optim_wrapper.accumulative_counts': 2}
    config = training_config(image_root, tmp_path, **CHANGES, **settings)
    config.custom_hooks = [*config.custom_hooks, dict(type='EMAHook', momentum=0.5)]
    runner = Runner.from_cfg(config)
    runner.train()
    (file,) = tmp_path.glob('*/vis_data/scalars.json')
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    steps = [entry for entry in entries if 'lr' in entry]
    # Of 2 epochs, each has 3 iterations.
    assert [entry['weight_moved'] for entry in steps] == pytest.approx([1 - done / 6 for done in range(6)])
    assert [entry['weight_cls'] for entry in steps] == [1.0] * 3 + [0.5] * 3
    kept, moved = (runner.message_hub.get_scalar(f'train/{name}').data[0] for name in ('loss_kd', 'loss_moved'))
    expected = [value * (1 - done / 6) for done, value in enumerate(kept)]
    assert moved.tolist() == pytest.approx(expected, rel=1e-5)
    # mmengine's log averages what has 'loss' in its name over validations, too.
    kept, moved = (runner.message_hub.get_scalar(f'val/distillation/{name}').data[0] for name in ('loss_kd', 'loss_moved'))
    assert (moved / kept).tolist() == pytest.approx([0.5, 0.0], abs=1e-6)
