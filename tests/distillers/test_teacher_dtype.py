"""A teacher that is stored in half precision: half the memory, the outputs of a teacher in autocast."""

import copy
import re

import pytest
import torch
from builders import (
    CONFIGS,
    TEACHER,
    build_distiller,
    cnn_distiller_config,
    distiller_config,
    images,
    labels,
    run_forked,
    training_config,
)
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from torch import nn

from serkd_mm.config_errors import ConfigError
from serkd_mm.distillers.frozen_teacher import FrozenTeacher
from serkd_mm.distillers.input_statistics import InputStatistics

DTYPES = [torch.bfloat16, torch.float16]


def name_of(dtype):
    return str(dtype).removeprefix('torch.')


def num_bytes(module):
    return sum(weight.nbytes for weight in module.parameters())


def pair(config, dtype, tmp_path):
    """Build the same distiller with a teacher in autocast, and with a teacher stored in that dtype."""
    torch.manual_seed(0)
    stored_in_float32 = MODELS.build(config(teacher__autocast_dtype=name_of(dtype)))
    path = tmp_path / 'teacher.pth'
    torch.save(stored_in_float32.teacher.model.state_dict(), path)
    halved = MODELS.build(
        config(teacher__dtype=name_of(dtype), teacher__checkpoint=str(path), teacher__allow_random_teacher=False)
    )
    halved.load_state_dict(stored_in_float32.state_dict())
    return stored_in_float32.train(), halved.train()


@pytest.mark.parametrize('config', [distiller_config, cnn_distiller_config])
@pytest.mark.parametrize('dtype', DTYPES, ids=name_of)
def test_outputs_equal_those_of_autocast(config, dtype, tmp_path):
    stored_in_float32, halved = pair(config, dtype, tmp_path)
    for student_dtype in (None, torch.bfloat16):
        with torch.autocast('cpu', student_dtype, enabled=student_dtype is not None):
            expected = stored_in_float32(images(), labels(), mode='loss')
            losses = halved(images(), labels(), mode='loss')
        assert {name: value.item() for name, value in losses.items()} == {
            name: value.item() for name, value in expected.items()
        }
        assert all(value.dtype == torch.float32 for name, value in losses.items() if name != 'loss_cls')
    features = halved.teacher(images())
    exact = copy.deepcopy(stored_in_float32.teacher.model).eval()
    difference = features['logits'].tensor.float() - exact(images())
    assert difference.abs().max() < 0.03 * exact(images()).abs().max()


def test_weights_that_are_standardized_in_each_step_stay_in_float32(tmp_path):
    model = dict(type='TimmClassifier', model_name='test_nfnet')
    pytest.importorskip('timm')

    def teacher_of(**settings):
        config = dict(model=model, checkpoint=str(tmp_path / 'net.pth'), taps=dict(logits='model'), **settings)
        return FrozenTeacher(config, {'logits'}, InputStatistics(), (3, 64, 64))

    torch.save(MODELS.build(model).state_dict(), tmp_path / 'net.pth')
    in_autocast, stored = teacher_of(autocast_dtype='bfloat16'), teacher_of(dtype='bfloat16')
    in_autocast.load()
    stored.load()
    inputs = images(size=64)
    assert torch.equal(stored(inputs)['logits'].tensor, in_autocast(inputs)['logits'].tensor)
    assert stored.model.model.head.fc.weight.dtype == torch.bfloat16


def test_linear_and_convolutional_layers_take_half_the_memory_and_others_stay(tmp_path):
    full, halved = pair(cnn_distiller_config, torch.bfloat16, tmp_path)
    kinds = {}
    for module in halved.teacher.model.modules():
        for weight in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if weight.is_floating_point():
                kinds.setdefault(type(module), set()).add(weight.dtype)
    assert kinds[nn.Conv2d] == kinds[nn.Linear] == {torch.bfloat16}
    assert kinds[nn.BatchNorm2d] == {torch.float32}
    deit = dict(
        TEACHER, backbone=dict(type='VisionTransformer', arch='deit-tiny'), head=dict(TEACHER['head'], in_channels=192)
    )
    full, halved = (
        MODELS.build(
            distiller_config(
                teacher__model=dict(deit),
                teacher__dtype=dtype,
                teacher__input_size=224,
                losses__loss_feat=None,
                losses__loss_rd=None,
                losses__loss_ra=None,
            )
        ).teacher
        for dtype in ('float32', 'bfloat16')
    )
    assert num_bytes(halved) < 0.51 * num_bytes(full)


def test_the_teacher_s_input_is_renormalized_in_float32():
    statistics = dict(type='ClsDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
    model = build_distiller(teacher__model=dict(TEACHER, data_preprocessor=statistics), teacher__dtype='bfloat16')
    seen = []
    model.teacher.model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    inputs = images()
    model.teacher(inputs)
    assert seen[0].dtype == torch.float32
    assert torch.equal(seen[0], inputs * model.teacher.renormalize.scale + model.teacher.renormalize.shift)


@pytest.mark.parametrize('dtype', DTYPES, ids=name_of)
def test_images_in_half_precision_do_not_convert_the_teacher(dtype):
    model = build_distiller()
    model.teacher(images().to(dtype))
    assert {weight.dtype for weight in model.teacher.parameters()} == {torch.float32}
    model.teacher.renormalize.to(dtype=torch.float32)
    assert model.teacher(images())['logits'].tensor.dtype == torch.float32


def test_a_stored_teacher_keeps_its_dtypes_on_another_device():
    teacher = build_distiller(teacher__dtype='bfloat16').teacher
    dtypes = [weight.dtype for weight in teacher.parameters()]
    teacher.own_images(images().to('meta'))
    assert {weight.device.type for weight in teacher.parameters()} == {'meta'}
    assert [weight.dtype for weight in teacher.parameters()] == dtypes
    assert torch.bfloat16 in dtypes


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(teacher__dtype='bf16'), r"model\.teacher\.dtype='bf16' is not a dtype. .*'bfloat16'"),
        (dict(teacher__dtype=None), r'model\.teacher\.dtype=None is not a dtype'),
        (dict(teacher__dtype='bfloat16', teacher__autocast_dtype='float32'), r"autocast_dtype='float32' contradicts"),
    ],
)
def test_wrong_dtypes_are_reported(settings, message):
    with pytest.raises(ConfigError, match=message):
        MODELS.build(distiller_config(**settings))


@pytest.mark.slow
@pytest.mark.usefixtures('runner_scope')
def test_training_with_ema_shares_the_stored_teacher(image_root, tmp_path):
    config = training_config(image_root, tmp_path / 'work')
    config.model.teacher.dtype = 'bfloat16'
    config.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    runner = Runner.from_cfg(config)
    runner.train()
    dtypes = {weight.dtype for weight in runner.model.teacher.parameters()}
    assert dtypes == {torch.bfloat16, torch.float32}
    saved = torch.load(tmp_path / 'work' / 'epoch_2.pth', weights_only=True)
    assert {value.dtype for value in saved['state_dict'].values()} == {torch.float32}
    assert 'ema_state_dict' in saved


@pytest.mark.slow
def test_describe_shows_the_smaller_teacher():
    config = CONFIGS / 'serkd' / 'deit-ti_mae-b.py'  # In float32 the teacher takes 327 MiB.
    out = run_forked('tools/describe.py', config, '--cfg-options', 'model.teacher.dtype=bfloat16')
    millions, mib = (float(re.search(pattern, out)[1]) for pattern in (r'teacher .*? ([\d.]+) M ', r'teacher +(\d+) *\n'))
    assert mib == pytest.approx(2 * millions * 1e6 / 2**20, rel=0.01)
