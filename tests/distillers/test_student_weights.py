"""Weights that a student starts from: ``student.checkpoint``."""

import copy

import pytest
import timm
import torch
from builders import STUDENT, build_distiller, distiller_config, training_config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from safetensors.torch import save_file

from serkd_mm.config_errors import ConfigError

KEY = 'model.student.checkpoint'


def save_student(path, seed, **changes):
    """Save a student with seeded weights; return its backbone's."""
    torch.manual_seed(seed)
    student = copy.deepcopy(STUDENT)
    student['head'].update(changes)
    model = MODELS.build(student)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), path)
    return {name: value for name, value in model.state_dict().items() if name.startswith('backbone.')}


def same(model, weights) -> bool:
    own = model.state_dict()
    return all(torch.equal(own[name], value) for name, value in weights.items())


@pytest.mark.usefixtures('runner_scope')
def test_training_starts_from_the_file_and_resuming_does_not(image_root, tmp_path):
    first, second = (save_student(tmp_path / f'{seed}.pth', seed) for seed in (1, 2))

    def train(file, epochs, **changes):
        settings = {'model.student.checkpoint': str(tmp_path / file), 'train_cfg.max_epochs': epochs}
        still = {'optim_wrapper.optimizer.lr': 0.0, 'param_scheduler': []}
        runner = Runner.from_cfg(training_config(image_root, tmp_path / 'work', **settings, **still, **changes))
        runner.train()
        return runner.model

    assert same(train('1.pth', 1), first)
    resumed = train('2.pth', 2, resume=True)
    assert same(resumed, first)
    assert not same(resumed, second)


def test_a_head_of_other_classes_starts_from_random_weights(tmp_path, logged):
    backbone = save_student(tmp_path / 'a.pth', 1, num_classes=9)
    model = build_distiller(student__checkpoint=str(tmp_path / 'a.pth'))
    assert same(model, backbone)
    assert model.head.layers.head.weight.shape == (4, 16)
    (message,) = [message for message in logged if 'no such class head' in message]
    assert message.startswith(f"{KEY}='{tmp_path}/a.pth' has no such class head: head.layers.head.weight, ")


def test_a_student_of_timm_starts_from_timm_s_file(tmp_path, logged):
    """Its file is of another size, and of a model with another number of classes."""
    torch.manual_seed(1)
    net = timm.create_model('test_vit')
    save_file(net.state_dict(), tmp_path / 'net.safetensors')
    student = dict(type='TimmClassifier', model_name='test_vit', num_classes=4)
    settings = dict(student__model=student, student__taps=None, losses__loss_kd=None)
    grids = dict(
        views__tokens__merger=dict(type='AvgPoolMerger', grid=2),
        views__superpixels__merger=dict(type='SuperpixelMerger', cell=None, grid=2),
    )
    checkpoint = str(tmp_path / 'net.safetensors')
    model = build_distiller(**settings, **grids, student__checkpoint=checkpoint, input_size=(3, 32, 32))
    assert any('was trained on images normalized by InputStatistics(mean=(127.5, 127.5, 127.5)' in line for line in logged)
    weights = model.student.state_dict()
    assert weights['pos_embed'].shape == (1, 1 + 2 * 2, 64)
    assert weights['head.weight'].shape == (4, 64)
    for name, value in net.state_dict().items():
        if name not in ('pos_embed', 'head.weight', 'head.bias'):
            assert torch.equal(weights[name], value), name


def test_evaluation_needs_no_file():
    config = distiller_config(student__checkpoint='no/such/file.pth')
    with pytest.raises(ConfigError, match=f"{KEY}='no/such/file.pth': there is no such file"):
        MODELS.build(copy.deepcopy(config))
    config.update(teacher=None)
    MODELS.build(config)


def test_weights_of_another_student_are_refused(tmp_path):
    save_student(tmp_path / 'a.pth', 1)
    weights = torch.load(tmp_path / 'a.pth')['state_dict']
    del weights['backbone.cls_token']
    torch.save(weights, tmp_path / 'a.pth')
    with pytest.raises(ConfigError, match=rf'{KEY}=.*does not match the model\. Missing \(1\): .*backbone\.cls_token'):
        build_distiller(student__checkpoint=str(tmp_path / 'a.pth'))
    with pytest.raises(
        ConfigError, match=r'model\.student\.model is a dict, not a name of .* Set model\.student\.checkpoint'
    ):
        build_distiller(student__checkpoint=True)
