"""Taps that are found when a config leaves them out."""

import copy

import pytest
import torch
from builders import NUM_CLASSES, STUDENT, TEACHER, build_distiller, distiller_config, images, labels
from mmpretrain.registry import MODELS
from torch import nn

from serkd_mm.config_errors import ConfigError
from serkd_mm.distillers.default_taps import _patches, default_taps


class TwiceTheFeatures(nn.Module):
    """A head that does not return logits."""

    def forward(self, features):
        return features * 2


FAMILIES = {
    # backbone, image size, the last block whose positions are at most 16 pixels apart
    'vision transformer': (TEACHER['backbone'], 32, 'backbone.layers[2]'),
    'ResNet': (dict(type='ResNet', depth=18), 224, 'backbone.layer3'),
    'ResNet on 96x96 images': (dict(type='ResNet', depth=18), 96, 'backbone.layer3'),
    'ResNet for CIFAR': (dict(type='ResNet_CIFAR', depth=18), 32, 'backbone.layer4'),
    'VGG, whose stages are not modules': (dict(type='VGG', depth=11), 64, 'backbone.features[11]'),
    'MobileNetV2': (dict(type='MobileNetV2'), 64, 'backbone.layer5'),
    'Swin, whose stages also return their shape': (dict(type='SwinTransformer', arch='tiny'), 224, 'backbone.stages[2]'),
    'ConvNeXt, which ends with a norm': (dict(type='ConvNeXt', arch='atto'), 64, 'backbone.stages[2]'),
    'XCiT, which ends with class attention': (
        dict(type='XCiT', patch_size=16, embed_dims=32, depth=3, num_heads=4, mlp_ratio=1.0),
        64,
        'backbone.xca_layers[-1]',
    ),
}


@pytest.mark.parametrize('family', FAMILIES)
def test_patches_are_the_last_block_at_stride_16(family):
    backbone, size, expected = FAMILIES[family]
    model = MODELS.build(dict(type='ImageClassifier', backbone=backbone))
    assert default_taps(model, {'patches'}, (3, size, size), 'taps') == dict(patches=expected)


def test_logits_of_a_distilled_head_are_those_trained_by_the_teacher():
    student = copy.deepcopy(STUDENT)
    assert default_taps(MODELS.build(student), {'logits'}, (3, 32, 32), 'taps') == dict(logits='head.layers.head_dist')
    student['head']['type'] = 'DeiTClsHead'  # mmpretrain's own, of a teacher: it predicts the mean of both.
    assert default_taps(MODELS.build(student), {'logits'}, (3, 32, 32), 'taps') == dict(logits='head')


def test_a_head_with_several_classifiers_is_tapped_at_the_last():
    backbone = dict(type='Conformer', arch='tiny')
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=backbone,
            head=dict(type='ConformerHead', in_channels=[256, 384], num_classes=NUM_CLASSES),
        )
    )
    assert default_taps(model, {'logits'}, (3, 224, 224), 'taps') == dict(logits='head.trans_cls_head')


def test_losses_with_found_taps_equal_those_with_the_same_taps_given():
    losses = [
        model.train()(images(), labels(), mode='loss')
        for model in (build_distiller(), build_distiller(student__taps=None, teacher__taps=None))
    ]
    assert losses[0].keys() == losses[1].keys()
    assert all(torch.equal(value, losses[1][name]) for name, value in losses[0].items())


def test_finding_taps_does_not_change_the_model():
    model = MODELS.build(dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18))).train()
    before = copy.deepcopy(model.state_dict())
    default_taps(model, {'patches'}, (3, 64, 64), 'taps')
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_taps_that_cannot_be_found_are_reported():
    model = MODELS.build(TEACHER)
    with pytest.raises(ConfigError, match=r'^model\.teacher\.taps is left out, .*\(1, 32, 32\).*input_size'):
        default_taps(model, {'patches', 'logits'}, (1, 32, 32), 'model.teacher.taps')
    model.head = TwiceTheFeatures()
    with pytest.raises(ConfigError, match=r"^model\.teacher\.taps is left out, and no module of the model's head"):
        default_taps(model, {'logits'}, (3, 32, 32), 'model.teacher.taps')
    with pytest.raises(ConfigError, match='no block of VisionTransformer returns a grid'):
        _patches(model, {}, set(), (32, 32), 'model.teacher.taps', False)


def test_input_size_resizes_the_teacher_s_images():
    teacher = dict(TEACHER, backbone=dict(TEACHER['backbone'], img_size=64, patch_size=16))
    model = build_distiller(teacher__model=teacher, teacher__input_size=64)
    seen = []
    model.teacher.model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    model.train()(images(), labels(), mode='loss')
    assert seen == [(4, 3, 64, 64)]
    with pytest.raises(ConfigError, match=r'model\.teacher\.input_size must be a positive integer'):
        MODELS.build(distiller_config(teacher__input_size=-1))
