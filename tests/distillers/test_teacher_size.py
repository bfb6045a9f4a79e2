"""The size of the images that a teacher sees."""

import copy

import pytest
import torch
from builders import TEACHER, build_distiller, images, labels

from serkd_mm.distillers.frozen_teacher import FrozenTeacher
from serkd_mm.distillers.input_statistics import InputStatistics
from serkd_mm.model_sources import find_model

ALONE = dict(
    student__model__head__distilled_training=False,
    losses__loss_kd=None,
    views__tokens__merger=dict(type='AvgPoolMerger', grid=2),
    views__superpixels__merger=dict(type='SuperpixelMerger', cell=None, grid=2),
)
VIT_14 = dict(type='TimmClassifier', model_name='vit_small_patch14_dinov2', depth=1, embed_dim=24, num_heads=2)


def sizes_logged(logged) -> list[str]:
    return [message for message in logged if message.startswith('model.teacher.input_size')]


def build(model, patches, **settings):
    return build_distiller(teacher__model=model, teacher__taps=dict(patches=patches), **ALONE, **settings)


def test_a_teacher_runs_at_the_student_s_size_if_it_can(logged):
    model = dict(type='TimmClassifier', model_name='test_vit')
    distiller = build(model, 'model.blocks[-1]', input_size=(3, 32, 32))
    assert distiller.teacher.input_size == (32, 32)
    assert distiller.teacher.model.model.pos_embed.shape[1] == 1 + 2 * 2
    assert distiller.teacher(images(2, 40))['patches'].tensor.shape == (2, 1 + 2 * 2, 64)
    assert sizes_logged(logged) == [
        "model.teacher.input_size: 32x32, as the student's "
        '(its own is 160x160: 25.0 times the pixels, 100 tokens instead of 4)'
    ]


@pytest.mark.parametrize('size', [96, 100])
def test_a_teacher_whose_weights_timm_cannot_reshape_runs_at_its_own_size(size, tmp_path):
    model = dict(type='TimmClassifier', model_name='cait_xxs24_224', depth=1, depth_token_only=1, embed_dim=48, num_heads=2)
    net = find_model(model, 'model').build('model')
    torch.save(net.state_dict(), tmp_path / 'net.pth')
    settings = dict(model=model, checkpoint=str(tmp_path / 'net.pth'), taps=dict(logits='model'))
    teacher = FrozenTeacher(settings, {'logits'}, InputStatistics(), (3, size, size))
    teacher.load()
    assert teacher.input_size == (224, 224)
    assert torch.equal(teacher.model.model.pos_embed, net.model.pos_embed)


def test_a_teacher_of_other_patches_runs_at_the_nearest_multiple(logged):
    """A ViT/14 would cut off the last pixels of 32x32 images without a word."""
    distiller = build(VIT_14, 'model.blocks[-1]')
    assert distiller.teacher.input_size == (28, 28)
    assert distiller.extract_features(images(2))[1]['patches'].tensor.shape == (2, 1 + 2 * 2, 24)
    (message,) = sizes_logged(logged)
    assert message.startswith("model.teacher.input_size: 28x28, the student's is 32x32 (its own is 518x518: 342.2 times")
    assert not torch.stack(list(distiller(images(4), labels(4), mode='loss').values())).isnan().any()


def test_an_explicit_size_is_kept():
    distiller = build(VIT_14, 'model.blocks[-1]', teacher__input_size=42)
    assert distiller.teacher.input_size == (42, 42)
    assert distiller.teacher.model.model.patch_embed.img_size == (42, 42)


def test_a_teacher_of_the_student_s_patches_is_not_resized(logged):
    assert build(copy.deepcopy(TEACHER), 'backbone.layers[-1]').teacher.input_size is None
    assert sizes_logged(logged) == []


@pytest.mark.parametrize(
    ('name', 'size'),
    [('swinv2-tiny-w8_3rdparty_in1k-256px', (256, 256)), ('vit-base-p16_mae-1600e-pre_8xb128-coslr-100e_in1k', (224, 224))],
)
def test_the_size_of_a_zoo_model_is_that_of_its_test_pipeline(name, size):
    assert find_model(name, 'model.teacher.model').image_size == size


@pytest.mark.slow
def test_swin_v2_of_the_zoo_needs_no_setting(logged):
    distiller = build('swinv2-tiny-w16_3rdparty_in1k-256px', 'backbone.stages[-1]', input_size=(3, 32, 32))
    assert distiller.teacher.input_size == (256, 256)
    assert sizes_logged(logged) == ["model.teacher.input_size: 256x256, the student's is 32x32"]
