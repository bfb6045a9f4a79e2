"""Dense taps: modules of the model, such as its classifier, applied at every position of a feature."""

import copy
from dataclasses import replace

import pytest
import torch
from builders import STUDENT, Graphs, build_distiller, cnn_distiller_config, distiller_config, images, labels
from formulas import formula_dense_logits
from mmpretrain.registry import MODELS
from torch import nn

from serkd_mm.config_errors import ConfigError

STUDENT_PATH, TEACHER_PATH = 'backbone.layers[-1] | backbone.ln1 | head.layers.head_dist', 'backbone.layers[-1] | head.fc'
DENSE_VIEW = dict(tap='dense', tokenizer=dict(type='GridTokenizer'), merger=dict(type='AvgPoolMerger', grid=2))
DENSE_LOSS = dict(type='DenseLogitsLoss', on='dense_grid', ratio=0.7)


def dense_config(student=STUDENT_PATH, teacher=TEACHER_PATH, config=distiller_config, **changes):
    """Return the config of a small pair with dense logits on a 2x2 grid."""
    settings = {
        'student__taps__dense': student,
        'teacher__taps__dense': teacher,
        'views__dense_grid': copy.deepcopy(DENSE_VIEW),
        'losses__loss_dense': copy.deepcopy(DENSE_LOSS),
    }
    return config(**{**settings, **changes})


def cnn_config(**changes):
    paths = dict(student='backbone.layer4 | head.fc', teacher='backbone.layer4|head.fc')
    return dense_config(**paths, config=cnn_distiller_config, **changes)


def pooled(grid):
    """The mean of each quarter of a grid ``(B, K, 4, 4)`` as tokens ``(B, 4, K)``."""
    return torch.nn.functional.avg_pool2d(grid, grid.shape[-1] // 2).flatten(2).mT


def test_dense_logits_of_transformers_are_the_head_at_every_token():
    model = build_distiller(dense_config).eval()
    student, teacher = model.extract_features(images())
    tokens, head = student['patches'].tensor, model.student.head.layers.head_dist
    with torch.no_grad():
        expected = head(model.student.backbone.ln1(tokens))
        of_teacher = model.teacher.model.head.fc(teacher['patches'].tensor)
    assert tokens.shape[1] == 18
    torch.testing.assert_close(student['dense'].tensor.detach(), expected)
    torch.testing.assert_close(teacher['dense'].tensor, of_teacher)
    assert student['dense'].num_extra_tokens == 2
    assert student['dense'].tensor.requires_grad
    assert not teacher['dense'].tensor.requires_grad

    loss = model(images(), labels(), mode='loss')['loss_dense']
    grids = [side[:, extra:].mT.unflatten(2, (4, 4)) for side, extra in ((expected, 2), (of_teacher, 1))]
    value = formula_dense_logits(*map(pooled, grids), ratio=0.7)
    torch.testing.assert_close(loss.double(), value, rtol=1e-5, atol=1e-7)
    assert_gradient(model, loss, head)


def test_dense_logits_of_cnns_are_the_head_at_every_position_and_their_mean_is_the_prediction():
    model = build_distiller(cnn_config).eval()
    assert model.teacher.taps.paths['dense'] == 'backbone.layer4 | head.fc'
    student, teacher = model.extract_features(images())
    for features, network in ((student, model.student), (teacher, model.teacher.model)):
        (maps,) = network.backbone(images())
        dense = features['dense'].tensor
        expected = torch.einsum('bchw,kc->bkhw', maps, network.head.fc.weight) + network.head.fc.bias[:, None, None]
        torch.testing.assert_close(dense, expected)
        assert dense.shape[2:] == maps.shape[2:]
        torch.testing.assert_close(dense.mean(dim=(2, 3)), network(images(), mode='tensor'))
    assert_gradient(model, model(images(), labels(), mode='loss')['loss_dense'], model.student.head.fc)


def assert_gradient(model, loss, head):
    """The loss trains the student's head and backbone, and neither a gradient of the teacher nor a hook stays."""
    loss.backward()
    assert head.weight.grad.abs().sum() > 0
    assert next(model.student.backbone.parameters()).grad.abs().sum() > 0
    assert all(weight.grad is None for weight in model.teacher.parameters())
    assert not any(module._forward_hooks for module in [*model.modules(), *model.teacher.modules()])


def test_a_tap_at_an_applied_module_is_not_run_twice():
    config = cnn_config(student__taps__logits='head.fc', teacher__taps__logits='head.fc')
    torch.manual_seed(0)
    model = MODELS.build(config)
    student, teacher = model.extract_features(images())
    assert student['logits'].tensor.ndim == teacher['logits'].tensor.ndim == 2


def test_the_teacher_stops_after_the_tapped_module():
    changes = {'losses__loss_kd': None, 'student__model__head__distilled_training': False}
    model = build_distiller(dense_config, **changes)
    runs = []
    model.teacher.model.head.register_forward_hook(lambda *_: runs.append('head'))
    model.teacher.model.head.fc.register_forward_hook(lambda _module, inputs, _output: runs.append(inputs[0].shape[0]))
    model(images(), labels(), mode='loss')
    assert runs == [4 * 17]


def test_the_teacher_s_classes_are_selected_in_dense_logits():
    teacher = distiller_config().teacher.model
    teacher.head.num_classes = 10
    model = build_distiller(dense_config, teacher__model=teacher, teacher__classes=[7, 0, 9, 3])
    _, features = model.extract_features(images())
    expected = model.teacher.model.head.fc(features['patches'].tensor)[..., [7, 0, 9, 3]]
    torch.testing.assert_close(features['dense'].tensor, expected)


@pytest.mark.slow
def test_compiled_models_have_the_same_dense_logits():
    plain, graphs = build_distiller(dense_config), Graphs()
    compiled = build_distiller(dense_config, student__compile=dict(backend=graphs), teacher__compile=dict(backend=graphs))
    assert torch.equal(*(model(images(), labels(), mode='loss')['loss_dense'] for model in (plain, compiled)))
    assert graphs.count > 0


class InplaceScale(nn.Module):
    """Map rows to rows, in place."""

    def forward(self, rows):
        return rows.mul_(2)


def test_modules_that_modify_the_feature_of_another_tap_are_refused():
    model = build_distiller(dense_config)
    model.teacher.taps._taps['dense'] = replace(model.teacher.taps._taps['dense'], applied=(InplaceScale(),))
    with pytest.raises(ConfigError, match='modifies this output in place'):
        model.extract_features(images())


def batch_norm_head():
    return dict(
        type='StackedLinearClsHead',
        num_classes=4,
        in_channels=16,
        mid_channels=[8],
        norm_cfg=dict(type='BN1d'),
        act_cfg=dict(type='ReLU'),
    )


@pytest.mark.parametrize(
    ('path', 'message'),
    [
        ('backbone.layers[-1] | head.layers.head_dst', r"student\.taps\.dense='head\.layers\.head_dst'.* Did you mean"),
        ('backbone.layers[-1] | ', 'is not a module path'),
        ('backbone.layers[-1] |', 'is not a module path'),
        ('| head.layers.head_dist', 'is not a module path'),
        (
            'backbone.layers[-1] | head',
            r"taps\.dense='backbone\.layers\[-1\] \| head': DeiTDistilledClsHead, applied to 36 positions",
        ),
        (
            'backbone.layers[-1] | backbone.layers[0].attn',
            r'MultiheadAttention, applied to 36 positions of 16 channels, failed',
        ),
        ('backbone.layers[-1] | backbone.layers[0].ffn.layers[0] | head.layers.head_dist', '32 channels, failed'),
    ],
)
def test_modules_that_cannot_be_applied_at_every_position_are_reported(path, message):
    with pytest.raises(ConfigError, match=message):
        MODELS.build(dense_config(student=path))


def test_norms_with_statistics_of_the_batch_are_refused():
    student = copy.deepcopy(STUDENT)
    student['backbone'] = dict(student['backbone'], type='VisionTransformer')
    student['head'] = batch_norm_head()
    changes = {'student__model': student, 'student__taps__logits': 'head', 'teacher__taps__logits': 'head'}
    with pytest.raises(ConfigError, match=r"dense='backbone\.layers\[-1\] \| head\.layers': BatchNorm1d cannot be applied"):
        MODELS.build(dense_config(student='backbone.layers[-1] | head.layers', **changes))
