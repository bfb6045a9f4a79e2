"""Configs that are unusual but legal work; those that would silently train something else are refused."""

import re

import pytest
import torch
from builders import REPOSITORY, build_distiller, cnn_distiller_config, distiller_config, images, labels, run_python
from mmpretrain.registry import MODELS

from serkd_mm.config_errors import ConfigError

KD = dict(type='LogitKLLoss', on='logits')
MISTAKES = [
    # settings, config key in the message, something else in the message
    (dict(losses__loss_rd__loss_weight=True), 'model.losses.loss_rd', 'loss_weight'),
    (dict(losses__loss_kd__tau=True), 'model.losses.loss_kd', 'tau'),
    (dict(views__superpixels__merger__num_iters=True), 'model.views.superpixels.merger', 'num_iters'),
    (dict(views__superpixels__merger__detach_association='no'), 'model.views.superpixels.merger', 'detach_association'),
    (dict(views={1: {}}), 'model.views', '1'),
    (dict(losses={7: KD}), 'model.losses', '7'),
    (dict(student__taps={1: 'head'}), 'model.losses.loss_kd.on', 'logits'),
    (dict(student__taps=['backbone.layers[-1]']), 'model.student.taps', 'dict'),
]


@pytest.mark.parametrize(('settings', 'key', 'hint'), MISTAKES)
def test_a_value_of_another_type_is_reported(settings, key, hint):
    with pytest.raises(ConfigError, match=re.escape(key)) as error:
        MODELS.build(distiller_config(**settings))
    assert hint in str(error.value)


def test_a_tap_inside_a_block_with_gradient_checkpointing_is_refused_because_it_has_no_gradient():
    settings = dict(student__model__backbone__with_cp=True)
    with pytest.raises(ConfigError, match=r'model\.student\.taps\.stage2.*without a graph.*with_cp'):
        MODELS.build(cnn_distiller_config(**settings, student__taps__stage2='backbone.layer2[0].conv2'))
    gradients = []
    for changes in ({}, settings):
        model = build_distiller(cnn_distiller_config, **changes).train()
        model.parse_losses(model(images(), labels(), mode='loss'))[0].backward()
        gradients.append([weight.grad for weight in model.parameters() if weight.grad is not None])
    for with_checkpoints, without in zip(*gradients, strict=True):
        torch.testing.assert_close(with_checkpoints, without)


def test_an_error_of_the_teacher_on_generated_images_names_the_teacher():
    gray = dict(num_classes=10, mean=[127.5], std=[127.5])
    config = cnn_distiller_config(
        input_size=(1, 32, 32),
        data_preprocessor=gray,
        student__model__backbone__in_channels=1,
        teacher__model__data_preprocessor=gray,
    )
    with pytest.raises(ConfigError, match=r'^model\.teacher: a step on generated images.*failed.*3 channels'):
        MODELS.build(config)


def test_float64_as_the_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        model = build_distiller(cnn_distiller_config).train()
        losses = model(images().double(), labels(), mode='loss')
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(loss.dtype == torch.float64 and loss.isfinite() for loss in losses.values())


@pytest.mark.slow
def test_a_missing_compiler_is_reported_with_the_setting(tmp_path):
    code = 'from builders import *; build_distiller(student__compile=True).train()(images(), labels(), mode="loss")'
    missing = str(tmp_path / 'none')
    settings = dict(
        CXX=missing, CC=missing, TORCHINDUCTOR_CACHE_DIR=str(tmp_path / 'cache'), TORCHINDUCTOR_COMPILE_THREADS='1'
    )
    paths = f'{REPOSITORY}:{REPOSITORY / "tests"}'
    error = run_python('-c', code, succeed=False, PYTHONPATH=paths, **settings)
    assert 'ConfigError: model.student.compile: the compiler failed' in error
    assert 'C++ compiler' in error
