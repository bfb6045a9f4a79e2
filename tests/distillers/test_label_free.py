"""Training without labels: losses, frozen parts, taps and the mixing of images."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from builders import PREPROCESSOR, build_distiller, cnn_distiller_config, distiller_config, images, labels
from mmengine.runner.checkpoint import get_state_dict, load_state_dict
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from serkd_mm.config_errors import ConfigError
from serkd_mm.distillers.label_free import LabelFreePreprocessor
from serkd_mm.distillers.model_parts import pooled_features
from serkd_mm.distillers.student_checkpoints import mismatches
from serkd_mm.hooks.complete_checkpoint_hook import CheckpointError, load_all_weights

RELATIONS = dict(losses__loss_cls=None, losses__loss_kd=None)
TIMM = dict(type='TimmClassifier', model_name='vit_tiny_patch16_224', img_size=32, patch_size=8, num_classes=4, depth=2)
AUGMENTS = dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)])


def unlabeled(batch=4):
    return [DataSample() for _ in range(batch)]


def frozen(model):
    return [name for name, weight in model.student.named_parameters() if not weight.requires_grad]


def trained_without_gradient(model):
    total, _ = model.parse_losses(model(images(), unlabeled(), mode='loss'))
    total.backward()
    return [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]


def test_head_and_final_norm_are_frozen_and_logged(logged):
    model = build_distiller(**RELATIONS)
    assert set(model.loss(images(), unlabeled())) == {'loss_feat', 'loss_rd', 'loss_ra'}
    norm_and_head = ['backbone.ln1', 'head.layers.head', 'head.layers.head_dist']
    assert frozen(model) == [f'{module}.{kind}' for module in norm_and_head for kind in ('weight', 'bias')]
    assert model.untrained_head == frozen(model)[2:]
    assert any('are frozen: backbone.ln1, head.layers.head, head.layers.head_dist (' in message for message in logged)
    assert trained_without_gradient(model) == []
    with_labels = build_distiller(losses__loss_kd=None, student__model__head__distilled_training=False)
    assert frozen(with_labels) == with_labels.untrained_head == []  # The norm is only read for the logits.


def test_distillation_losses_are_those_of_a_training_with_labels():
    with_labels, without = build_distiller(), build_distiller(losses__loss_cls=None, student__taps__logits='head')
    expected = with_labels.eval().loss(images(), labels())
    found = without.eval().loss(images(), unlabeled())
    assert all(torch.equal(found[name], expected[name]) for name in ('loss_feat', 'loss_rd', 'loss_ra'))
    assert without.untrained_head == frozen(without) == []  # The logits of the teacher train the head.


def test_one_of_two_classifiers_without_a_loss_is_reported():
    with pytest.raises(ConfigError, match=r"head\.layers\.head\.weight.*model\.student\.taps\.logits='head'"):
        build_distiller(losses__loss_cls=None)


@pytest.mark.parametrize(
    ('config', 'taps', 'last'),
    [
        (distiller_config, dict(patches='backbone.layers[0]'), r'backbone\.layers\.1\.ln1.*taps: .backbone\.layers\[1\]'),
        (cnn_distiller_config, None, r'backbone\.\w+.*taps: .backbone\.'),
    ],
)
def test_block_that_no_loss_trains_is_reported_with_the_tap_to_use(config, taps, last):
    changes = dict(RELATIONS, student__taps=taps or config().student.taps)
    if config is cnn_distiller_config:
        for name in ('tokens', 'superpixels'):
            changes[f'views__{name}__taps'] = ['stage1', 'stage2']
    with pytest.raises(ConfigError, match=f'^model.losses: without labels .*no loss trains {last}'):
        build_distiller(config, **changes)
    if taps is not None:
        assert build_distiller(config, **RELATIONS, student__taps=None).student_taps.paths == {
            'patches': 'backbone.layers[1]'
        }


def test_nothing_to_train_is_reported():
    with pytest.raises(ConfigError, match=r'^model\.losses: loss_cls is None and there is no other loss'):
        build_distiller(losses=dict(loss_cls=None), views=None)
    with pytest.raises(ConfigError, match=r'^model\.student\.model has no class head.*loss_cls=None'):
        build_distiller(student__model=dict(TIMM, num_classes=0), student__taps=None, losses__loss_kd=None)
    with pytest.raises(ConfigError, match=r'loss_cls is the student.s own task loss'):
        build_distiller(losses__loss_cls=dict(type='FeatureL2Loss', on='tokens'))


def test_layers_between_the_last_block_and_the_head_are_named_and_not_read(logged):
    net = dict(type='TimmClassifier', model_name='mobilenetv4_conv_small_035', num_classes=4)
    tokens = dict(tap='patches', tokenizer=dict(type='GridTokenizer'), merger=dict(type='AvgPoolMerger', grid=2))
    config = distiller_config(**RELATIONS, student__model=net, student__taps=None, views=dict(tokens=tokens))
    config.losses = dict(loss_cls=None, loss_feat=config.losses.loss_feat)
    model = MODELS.build(config).eval()
    assert model.untrained_layers == ['model.conv_head']
    assert any(message.startswith('model.conv_head lies between the last block') for message in logged)
    expected = model.student.model.forward_features(images()).mean(dim=(2, 3))
    assert torch.equal(pooled_features(model.student, images()), expected)
    assert build_distiller(**RELATIONS).untrained_layers == []


@pytest.mark.parametrize('num_classes', [4, 0])
def test_timm_student_is_saved_in_the_names_of_timm(num_classes, tmp_path):
    timm = pytest.importorskip('timm')
    changes = dict(RELATIONS, student__model=dict(TIMM, num_classes=num_classes), student__taps=None)
    model = build_distiller(**changes)
    assert model.untrained_head == ['head.weight', 'head.bias'][: num_classes // 2]
    settings = {name: value for name, value in TIMM.items() if name not in ('type', 'num_classes')}
    net = timm.create_model(**settings, num_classes=num_classes)
    for saved in (model.state_dict(), get_state_dict(model)):  # torch and mmengine each have their own.
        student = {name: value for name, value in saved.items() if not name.startswith('distill.')}
        net.load_state_dict(student, strict=True)
        again = build_distiller(**changes)
        torch.nn.init.zeros_(again.student.model.cls_token)
        load_state_dict(again, saved, strict=True)
        assert all(torch.equal(value, saved[name]) for name, value in again.state_dict().items())
        assert mismatches(again, saved) == []
    net.eval()
    model.eval()
    assert torch.equal(net(images()), model(images()))
    # An evaluation misses what is missing.
    evaluated = MODELS.build(distiller_config(**changes, teacher=None))
    load_all_weights(evaluated, dict(state_dict=saved), 'FILE')
    with pytest.raises(CheckpointError, match=r'not 1 of the .* cls_token'):
        load_all_weights(evaluated, {name: value for name, value in saved.items() if name != 'cls_token'}, 'FILE')


@pytest.mark.parametrize('augment', AUGMENTS['augments'], ids=lambda augment: augment['type'])
def test_images_without_labels_are_mixed_as_those_with_labels(augment):
    settings = {**PREPROCESSOR, 'batch_augments': dict(augments=[augment])}
    data = dict(inputs=torch.randint(0, 256, (4, 3, 32, 32)), data_samples=None)
    results = []
    for kind, samples in ((ClsDataPreprocessor, labels()), (LabelFreePreprocessor, unlabeled())):
        torch.manual_seed(0)
        np.random.seed(0)
        results.append(kind(**settings)(dict(data, data_samples=samples), training=True)['inputs'])
    assert torch.equal(*results)
    plain = LabelFreePreprocessor(**settings)(dict(data, data_samples=unlabeled()))['inputs']
    assert not torch.equal(plain, results[0])  # The class without labels leaves them unmixed.
    assert torch.equal(plain, ClsDataPreprocessor(**settings)(dict(data, data_samples=unlabeled()), True)['inputs'])


@pytest.mark.parametrize('place', ['student', 'model', 'timm'])
def test_training_without_labels_mixes(place):
    changes = dict(RELATIONS)
    if place == 'student':
        changes |= dict(data_preprocessor=None, student__model__data_preprocessor=deepcopy(PREPROCESSOR))
    if place == 'timm':
        changes |= dict(student__model=deepcopy(TIMM), student__taps=None)
    changes['student__model__train_cfg'] = deepcopy(AUGMENTS)
    preprocessor = build_distiller(**changes).data_preprocessor
    assert isinstance(preprocessor, LabelFreePreprocessor)
    assert preprocessor.batch_augments is not None
    assert preprocessor.mean.flatten().tolist() == pytest.approx(PREPROCESSOR['mean'])


@MODELS.register_module()
class CustomPreprocessor(ClsDataPreprocessor):
    """A preprocessor that is not replaced, because it may do more."""


def test_preprocessor_that_would_not_mix_is_refused():
    custom = dict(PREPROCESSOR, type='CustomPreprocessor', batch_augments=deepcopy(AUGMENTS))
    with pytest.raises(ConfigError, match=r"^data_preprocessor\.type='CustomPreprocessor' may mix only images with labels"):
        build_distiller(**RELATIONS, data_preprocessor=custom, student__model__train_cfg=None)
    build_distiller(**RELATIONS, data_preprocessor=dict(PREPROCESSOR, type='CustomPreprocessor'))
