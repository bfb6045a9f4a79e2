"""Taps, class tokens and class heads of nets of timm and Hugging Face."""

import json
import re

import pytest
import torch
from builders import NUM_CLASSES, Graphs, build_distiller, distiller_config, images, labels
from mmpretrain.registry import MODELS

from serkd_mm.config_errors import ConfigError
from serkd_mm.distillers.default_taps import default_taps
from serkd_mm.distillers.taps import Taps
from serkd_mm.model_sources import find_model
from serkd_mm.tokenizers import GridTokenizer

VIT = dict(img_size=56, depth=2, embed_dim=24, num_heads=2)
# By architecture of timm: settings, image size, the last block whose positions are at most 16 pixels apart, its tokens that
# are no patches, and rows of its grid.
TIMM = {
    'vit_tiny_patch16_224': (dict(VIT, img_size=32, patch_size=8), 32, 'model.blocks', 1, 4),
    'vit_small_patch14_reg4_dinov2': (VIT, 56, 'model.blocks', 5, 4),
    'deit_tiny_distilled_patch16_224': (dict(VIT, img_size=32, patch_size=8), 32, 'model.blocks', 2, 4),
    'vit_small_patch16_dinov3': (dict(VIT, img_size=64), 64, 'model.blocks[1]', 5, 4),
    'resnet10t': ({}, 64, 'model.layer3', None, 4),
    'convnext_atto': ({}, 64, 'model.stages[2]', None, 4),
    'mobilenetv4_conv_small_035': ({}, 64, 'model.blocks[2]', None, 4),
    'xcit_nano_12_p16_224': (dict(depth=2), 64, 'model.blocks[-1]', 0, 4),
    'cait_xxs24_224': (dict(depth=2, img_size=64), 64, 'model.blocks', 0, 4),
    'resmlp_12_224': (dict(img_size=64), 64, 'model.blocks', None, 4),
    'levit_128s': ({}, 224, 'model.stages[0]', None, 14),
}


@pytest.mark.parametrize('name', TIMM)
def test_patches_and_logits_of_timm(name):
    pytest.importorskip('timm')
    settings, size, patches, num_extra_tokens, rows = TIMM[name]
    model = MODELS.build(dict(type='TimmClassifier', model_name=name, num_classes=NUM_CLASSES, **settings)).eval()
    paths = default_taps(model, {'patches', 'logits'}, (3, size, size), 'taps')
    assert paths == dict(patches=patches, logits='model')
    taps = Taps(model, paths, set(paths), 'taps')
    with torch.no_grad(), taps.record((size, size)) as features:
        logits = model(images(2, size))
    assert torch.equal(features['logits'].tensor, logits)
    assert features['patches'].num_extra_tokens == num_extra_tokens
    assert GridTokenizer()(features['patches']).shape[2:] == (rows, rows)


def hugging_face_folder(folder, config):
    """Write the config of a model as transformers does, and that of its images."""
    config.save_pretrained(folder)
    processor = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3, size=dict(height=64, width=64))
    (folder / 'preprocessor_config.json').write_text(json.dumps(processor))
    return f'hf:{folder}'


@pytest.mark.parametrize(
    ('kind', 'settings', 'patches', 'num_extra_tokens'),
    [
        ('ViT', dict(architectures=['ViTForImageClassification']), r'model\.vit\..*layers?\[1\]', 1),
        ('Dinov2WithRegisters', dict(num_register_tokens=4), r'model\.encoder\.layer\[1\]', 5),
        ('ConvNext', dict(architectures=['ConvNextForImageClassification']), r'model\.convnext\.encoder\.stages\[2\]', 0),
    ],
)
def test_patches_and_logits_of_hugging_face(kind, settings, patches, num_extra_tokens, tmp_path):
    transformers = pytest.importorskip('transformers')
    small = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=16)
    if kind == 'ConvNext':
        small = dict(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1])
    elif kind == 'ViT':
        small['intermediate_size'] = 48
    config = getattr(transformers, f'{kind}Config')(**small, **settings, num_labels=NUM_CLASSES)
    name = hugging_face_folder(tmp_path, config)
    model = find_model(name, 'model.teacher.model').build('model.teacher.model').eval()
    used = {'patches', 'logits'} if settings.get('architectures') else {'patches'}
    paths = default_taps(model, used, (3, 64, 64), 'taps')
    taps = Taps(model, paths, used, 'taps')
    with torch.no_grad(), taps.record((64, 64)) as features:
        output = model(images(2, 64))
    assert re.fullmatch(patches, paths['patches'])
    assert paths.get('logits', 'logits') == 'logits'
    assert 'logits' not in used or torch.equal(features['logits'].tensor, output)
    assert features['patches'].num_extra_tokens == num_extra_tokens
    assert GridTokenizer()(features['patches']).shape[2:] == (4, 4)


HEADLESS = dict(
    type='TimmClassifier',
    model_name='vit_small_patch14_dinov2',
    num_classes=0,
    **{**VIT, 'img_size': 32, 'patch_size': 8},
)


def test_a_teacher_without_a_class_head_names_the_losses_that_read_logits():
    pytest.importorskip('timm')
    changes = dict(teacher__model=HEADLESS, teacher__taps=None, losses__loss_hard=dict(type='HardLabelLoss', on='logits'))
    message = r'^model\.teacher\.model has no class head.*model\.losses\.loss_kd=None and model\.losses\.loss_hard=None'
    with pytest.raises(ConfigError, match=message):
        MODELS.build(distiller_config(**changes))
    none = dict(losses__loss_kd=None, losses__loss_hard=None, student__model__head__distilled_training=False)
    model = build_distiller(**{**changes, **none})
    assert model.teacher.taps.paths == dict(patches='model.blocks')
    losses = model.train()(images(), labels(), mode='loss')
    assert set(losses) == {'loss_cls', 'loss_feat', 'loss_rd', 'loss_ra'}


def test_nets_of_timm_are_compiled_in_parts_between_the_taps():
    pytest.importorskip('timm')
    graphs = Graphs()
    settings = dict(teacher__model=dict(HEADLESS, num_classes=NUM_CLASSES), teacher__taps=None)
    plain = build_distiller(**settings)
    compiled = build_distiller(**settings, teacher__compile=dict(backend=graphs))
    assert graphs.count == 0
    losses = [model.train()(images(), labels(), mode='loss') for model in (plain, compiled)]
    assert graphs.count >= 2
    torch.testing.assert_close(*losses)


def test_tokens_in_another_order_than_the_image_are_refused():
    pytest.importorskip('timm')
    model = MODELS.build(dict(type='TimmClassifier', model_name='hiera_tiny_224', embed_dim=16, num_heads=1))
    with pytest.raises(ConfigError, match=r"Hiera's blocks do not hold the tokens in the order of the image"):
        default_taps(model, {'patches'}, (3, 224, 224), 'model.teacher.taps')
    assert default_taps(model, {'logits'}, (3, 224, 224), 'model.teacher.taps') == dict(logits='model')


class InPlace(torch.nn.Sequential):
    """A backbone whose last activation modifies the output of the block before it."""


def test_a_block_that_is_modified_in_place_is_no_default_tap():
    backbone = InPlace(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.ReLU(inplace=True))
    model = MODELS.build(dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18)))
    model.backbone = backbone
    assert default_taps(model, {'patches'}, (3, 32, 32), 'taps') == dict(patches='backbone[1]')
