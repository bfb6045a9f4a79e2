"""Students whose config has a place for a pretrained checkpoint that nobody filled in, as 49 models of the zoo have."""

import copy

import pytest
import torch
from builders import STUDENT, build_distiller, training_config
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

EMPTY = dict(type='Pretrained', checkpoint='', prefix='backbone.')
WARNING = "model.student.model.backbone.init_cfg is of type 'Pretrained' and has no checkpoint"


def student(**backbone):
    return dict(copy.deepcopy(STUDENT), backbone=dict(STUDENT['backbone'], **backbone))


@pytest.mark.usefixtures('runner_scope')
def test_student_from_a_config_file_trains(image_root, tmp_path):
    Config(dict(model=student(init_cfg=EMPTY))).dump(tmp_path / 'student.py')
    config = training_config(image_root, tmp_path / 'work', **{'train_cfg.max_epochs': 1})
    config.model.student.model = str(tmp_path / 'student.py')
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.iter == 3
    assert WARNING in next((tmp_path / 'work').glob('*/*.log')).read_text()


@pytest.mark.parametrize('empty', [EMPTY, dict(EMPTY, checkpoint=None)], ids=['text', 'none'])
def test_other_initialization_is_kept(empty, logged):
    constant = dict(type='Constant', layer='LayerNorm', val=7.0)
    model = build_distiller(student__model=student(init_cfg=[constant, empty]))
    assert any(WARNING in message for message in logged)
    assert torch.equal(model.backbone.ln1.weight, torch.full((16,), 7.0))


def test_module_is_initialized_as_without_the_setting():
    first, second = build_distiller(student__model=student(init_cfg=EMPTY)), build_distiller()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_checkpoint_that_is_given_is_loaded(tmp_path):
    weights = MODELS.build(student()).state_dict()
    torch.save(dict(state_dict=weights), tmp_path / 'student.pth')
    given = dict(EMPTY, checkpoint=str(tmp_path / 'student.pth'))
    model = build_distiller(student__model=student(init_cfg=given))
    assert torch.equal(model.backbone.cls_token, weights['backbone.cls_token'])
    with pytest.raises(FileNotFoundError):
        build_distiller(student__model=student(init_cfg=dict(EMPTY, checkpoint='none.pth')))


@pytest.mark.slow
def test_student_by_its_name_in_the_zoo(logged):
    model = MODELS.build(
        dict(type='RelationDistiller', student=dict(model='vit-base-p16_mae-1600e-pre_8xb128-coslr-100e_in1k'))
    )
    model.init_weights()
    assert any(WARNING in message for message in logged)
    assert model.backbone.layers[0].attn.qkv.weight.std() > 0
