"""An evaluation needs every weight of the student."""

import pytest
import torch
from builders import STUDENT, build_distiller, run_forked, training_config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from serkd_mm.fileio import CheckpointError
from serkd_mm.hooks.complete_checkpoint_hook import load_all_weights

pytestmark = pytest.mark.usefixtures('runner_scope')


@pytest.fixture
def student():
    """The student as it is evaluated: without the teacher."""
    return build_distiller(teacher=None)


def test_complete_checkpoints_load(student):
    plain = MODELS.build(STUDENT).state_dict()
    wrapped = {f'module.{name}': value for name, value in plain.items()}
    trained = build_distiller().state_dict()
    assert any(name.startswith('distill.') for name in trained)
    for checkpoint in (dict(state_dict=trained), dict(state_dict=plain), plain, wrapped):
        load_all_weights(student, checkpoint, 'FILE')
        loaded = {name.removeprefix('module.'): value for name, value in checkpoint.get('state_dict', checkpoint).items()}
        assert all(torch.equal(value, loaded[name]) for name, value in student.state_dict().items())
    load_all_weights(build_distiller(), plain, 'FILE')  # A distiller that draws, as vis_superpixels.


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda weights: {}, r'^FILE holds 0 entries, but not (\d+) of the \1 weights .*random: backbone\.'),
        (lambda weights: {f'student.{name}': value for name, value in weights.items()}, 'but not'),
        (lambda weights: {name: value for name, value in weights.items() if 'head_dist.bias' not in name}, 'not 1 of the'),
        (lambda weights: {**weights, 'head.layers.head.weight': torch.zeros(7, 16)}, r'another model: .*head\.layers\.head'),
        (list, 'FILE holds no state_dict'),
    ],
)
def test_incomplete_checkpoint_is_refused(change, message, student):
    with pytest.raises(CheckpointError) as error:
        load_all_weights(student, change(student.state_dict()), 'FILE')
    assert error.match(message.replace('.*', r'[\s\S]*'))


class UsedWeights(Hook):
    """Copy the weights that an evaluation uses."""

    def __init__(self, used):
        self.used = used

    def after_test_iter(self, runner, *_, **__):
        self.used.update({name: value.clone() for name, value in runner.model.state_dict().items()})


def test_averaged_weights_are_evaluated(image_root, tmp_path):
    def config(**changes):
        settings = training_config(image_root, tmp_path, **{'train_cfg.max_epochs': 1, **changes})
        settings.custom_hooks = [*settings.custom_hooks, dict(type='EMAHook', momentum=0.5)]
        return settings

    Runner.from_cfg(config()).train()
    path = tmp_path / 'epoch_1.pth'
    evaluation = config(load_from=str(path), **{'model.teacher': None})
    evaluation.custom_hooks.append(dict(type='CompleteCheckpointHook'))
    runner = Runner.from_cfg(evaluation)
    used = {}
    runner.register_hook(UsedWeights(used))
    runner.test()
    averaged = torch.load(path, weights_only=True)['state_dict']
    assert all(torch.equal(value, averaged[name]) for name, value in used.items())
    assert 'backbone.cls_token' in used


@pytest.mark.slow
def test_tool_refuses_an_empty_checkpoint_in_one_line(image_root, tmp_path):
    training_config(image_root, tmp_path / 'work').dump(tmp_path / 'config.py')
    torch.save(dict(state_dict={}, meta={}), tmp_path / 'empty.pth')
    output = run_forked('tools/test.py', tmp_path / 'config.py', tmp_path / 'empty.pth', succeed=False)
    assert f"error: '{tmp_path}/empty.pth' holds 0 entries, but not " in output.splitlines()[-1]
    assert 'Traceback' not in output


def test_a_checkpoint_of_another_width_is_refused_in_a_short_message(student):
    other = {name: torch.zeros(*value.shape[:-1], 7) for name, value in MODELS.build(STUDENT).state_dict().items()}
    with pytest.raises(CheckpointError, match=r'another model: size mismatch for .*The same holds for \d+ others') as error:
        load_all_weights(student, other, 'FILE')
    assert len(str(error.value)) < 400
