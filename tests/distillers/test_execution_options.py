"""Compilation, channels-last memory format and the teacher's autocast dtype: same results, executed differently."""

import copy
import shutil

import pytest
import torch
from builders import CONFIGS, PREPROCESSOR, Graphs, build_distiller, distiller_config, images, labels, training_config
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from serkd_mm.config_errors import ConfigError


def cnn_distiller(**changes):
    """Build ``configs/serkd/resnet18_resnet101.py`` for 64x64 images and a small teacher, both sides with ``changes``."""
    config = Config.fromfile(CONFIGS / 'serkd' / 'resnet18_resnet101.py').model
    config.update(data_preprocessor=PREPROCESSOR, input_size=(3, 64, 64))
    for view in config.views.values():
        view.tokenizer.grid = 4
    resnet18 = dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=18, num_stages=4, out_indices=(3,)),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=1000, in_channels=512),
    )
    config.teacher.update(model=resnet18, checkpoint=None, allow_random_teacher=True)
    for side in ('student', 'teacher'):
        config[side].update(changes)
    torch.manual_seed(0)
    return MODELS.build(config)


def step(model, batch=4, size=32):
    """Return the losses and gradients of one step."""
    model.zero_grad()
    losses = model(images(batch, size), labels(batch), mode='loss')
    sum(losses.values()).backward()
    return losses, {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def share_weights(source, target):
    target.load_state_dict(source.state_dict())
    target.teacher.load_state_dict(source.teacher.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize('build', [build_distiller, cnn_distiller])
def test_a_compiled_backbone_gives_the_same_losses_and_gradients(build):
    size = 64 if build is cnn_distiller else 32
    graphs = Graphs()
    plain = build()
    settings = dict(backend=graphs)
    if build is cnn_distiller:
        compiled = build(compile=settings)
    else:
        compiled = build(student__compile=settings, teacher__compile=settings)
    assert graphs.count == 0  # the dry run does not compile
    share_weights(plain, compiled)
    torch.testing.assert_close(step(compiled, size=size), step(plain, size=size))
    # At least: 4 stages on each side; 2 blocks of the student and 3 of the teacher.
    assert graphs.count >= (8 if build is cnn_distiller else 5)
    compiled_once = graphs.count
    torch.testing.assert_close(step(compiled, size=size), step(plain, size=size))
    assert graphs.count == compiled_once


@pytest.mark.slow
def test_stochastic_depth_does_not_break_the_graph():
    # Its rates are NumPy scalars, which torch.compile would treat as tensors, with a graph break in every block.
    counts = []
    for rate in (0.0, 0.1):
        graphs = Graphs()
        step(build_distiller(student__compile=dict(backend=graphs), student__model__backbone__drop_path_rate=rate))
        counts.append(graphs.count)
    assert counts[0] == counts[1]


def test_a_copy_of_a_compiled_model_uses_its_own_weights():
    model = build_distiller(student__compile=dict(backend=Graphs()))
    step(model)
    average = copy.deepcopy(model)
    with torch.no_grad():
        for weight in average.parameters():
            weight.zero_()
    assert average(images()).abs().max() == 0
    assert model(images()).abs().max() > 0


@pytest.mark.slow
@pytest.mark.sweep  # The compiler takes a minute; the tests above check values and gradients with faster backends.
@pytest.mark.skipif(shutil.which('g++') is None, reason='torch.compile needs a C++ compiler on a CPU')
def test_compile_true_uses_the_default_compiler():
    plain, compiled = build_distiller(), build_distiller(student__compile=True, teacher__compile=True)
    share_weights(plain, compiled)
    torch.testing.assert_close(step(compiled), step(plain), rtol=1e-4, atol=1e-4)


def test_channels_last_reaches_the_taps_and_keeps_the_results():
    plain, last = cnn_distiller(channels_last=False), cnn_distiller(channels_last=True)
    share_weights(plain, last)
    torch.testing.assert_close(step(last, size=64), step(plain, size=64), rtol=1e-3, atol=1e-4)
    for model, expected in ((plain, False), (last, True)):
        feature = model.teacher(images(size=64))['stage1'].tensor
        assert feature.is_contiguous(memory_format=torch.channels_last) == expected


def test_the_teacher_s_autocast_dtype_is_independent():
    model = build_distiller(teacher__autocast_dtype='bfloat16')
    features = model.teacher(images())
    assert features['logits'].tensor.dtype == torch.bfloat16
    with torch.autocast('cpu', dtype=torch.bfloat16):
        expected = build_distiller().teacher(images())
    assert torch.equal(features['logits'].tensor, expected['logits'].tensor)
    losses, _ = step(model)
    assert all(value.dtype == torch.float32 for value in losses.values())

    model = build_distiller(teacher__autocast_dtype='float32')
    with torch.autocast('cpu', dtype=torch.bfloat16):
        features = model.teacher(images())
    assert features['logits'].tensor.dtype == torch.float32


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(student__compile='yes'), r"model\.student\.compile must be True, False or a dict .* 'yes'"),
        (dict(teacher__compile=dict(fast=True)), r'model\.teacher\.compile=.*fast'),
        (dict(teacher__compile=dict(backend='inducto')), r'model\.teacher\.compile=.*inducto'),
        (dict(student__channels_last=1), r'model\.student\.channels_last must be True or False'),
        (dict(teacher__autocast_dtype='bf16'), r"model\.teacher\.autocast_dtype='bf16' is not a dtype. .*'bfloat16'"),
        (dict(teacher__device='gpu'), r"model\.teacher\.device='gpu' must be a GPU, such as 'cuda:1'"),
        (dict(teacher__device='cuda'), r"model\.teacher\.device='cuda' must be a GPU"),
        (dict(student__autocast_dtype='bfloat16'), r'model\.student\.autocast_dtype is not a setting'),
    ],
)
def test_wrong_settings_are_reported(settings, message):
    with pytest.raises(ConfigError, match=message):
        MODELS.build(distiller_config(**settings))


def test_gpu_that_is_missing_is_reported_when_training_starts():
    model = MODELS.build(distiller_config(teacher__device='cuda:64'))
    with pytest.raises(ConfigError, match=r"model\.teacher\.device='cuda:64': this machine has \d+ GPUs"):
        model.teacher.load()


@pytest.mark.slow
@pytest.mark.usefixtures('runner_scope')
def test_training_with_all_options(image_root, tmp_path):
    config = training_config(image_root, tmp_path / 'work')
    for side in ('student', 'teacher'):
        config.model[side].update(compile=dict(backend='eager'), channels_last=True)
    config.model.teacher.autocast_dtype = 'bfloat16'
    config.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    Runner.from_cfg(config).train()
    names = torch.load(tmp_path / 'work' / 'epoch_2.pth', weights_only=True)['state_dict']
    assert set(names) == set(build_distiller().state_dict())
