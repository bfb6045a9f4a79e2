"""Trainable versions of mmpretrain's distilled heads."""

import warnings
from dataclasses import dataclass

import pytest
import torch
from mmpretrain.apis import ModelHub
from mmpretrain.models import DeiTClsHead
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

import serkd_mm  # noqa: F401
from serkd_mm.heads import TRAINABLE_HEADS, make_heads_trainable


@dataclass(frozen=True)
class Kind:
    """One of mmpretrain's heads: its name, whether it reads tokens, and the paths of its two classifiers."""

    theirs: str
    tokens: bool
    label: str
    teacher: str

    @property
    def ours(self):
        return TRAINABLE_HEADS[self.theirs]

    def feats(self, batch=3):
        generator = torch.Generator().manual_seed(0)
        first, second = (torch.randn(batch, 8, generator=generator) for _ in range(2))
        return ([first, second],) if self.tokens else (first,)


KINDS = [
    Kind('DeiTClsHead', True, 'layers.head', 'layers.head_dist'),
    Kind('LeViTClsHead', False, 'head', 'head_dist'),
    Kind('EfficientFormerClsHead', False, 'head', 'dist_head'),
]
all_kinds = pytest.mark.parametrize('kind', KINDS, ids=lambda kind: kind.theirs)
# Zoo name, tap of a stage, tap of the classifier that learns the teacher, tokenizer.
STUDENTS = [
    ('deit-tiny-distilled_3rdparty_in1k', 'backbone.layers[-1]', 'head.layers.head_dist', 'PatchTokenizer'),
    ('levit-128s_3rdparty_in1k', 'backbone.stages[0]', 'head.head_dist', 'PatchTokenizer'),
    ('efficientformer-l1_3rdparty_8xb128_in1k', 'backbone.network[0]', 'head.dist_head', 'PoolTokenizer'),
]


def build(type_, **settings):
    head = MODELS.build(dict(type=type_, num_classes=5, in_channels=8, **settings))
    torch.manual_seed(0)
    for weight in head.parameters():
        torch.nn.init.normal_(weight)
    return head


def samples(soft):
    made = [DataSample().set_gt_label(label) for label in (0, 3, 1)]
    if soft:
        for sample, score in zip(made, torch.eye(5)[[0, 3, 1]] * 0.7 + 0.06, strict=True):
            sample.set_gt_score(score)
    return made


def settings_of(kind):
    variants = [{}, {'hidden_dim': 6}] if kind.tokens else [{}, {'distillation': False}]
    return [pytest.param(kind, settings, id=f'{kind.theirs} {settings}') for settings in variants]


@pytest.mark.parametrize(('kind', 'settings'), [param for kind in KINDS for param in settings_of(kind)])
def test_parameters_and_predictions_equal_those_of_mmpretrain(kind, settings):
    theirs, ours = build(kind.theirs, **settings).eval(), build(kind.ours, **settings).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    feats = kind.feats()
    assert torch.equal(ours(feats), theirs(feats))
    ours_score = [sample.pred_score for sample in ours.predict(feats)]
    theirs_score = [sample.pred_score for sample in theirs.predict(feats)]
    assert all(torch.equal(a, b) for a, b in zip(ours_score, theirs_score, strict=True))


@all_kinds
@pytest.mark.parametrize('soft', [False, True])
def test_labels_train_only_the_first_classifier(kind, soft):
    head, feats = build(kind.ours, loss=dict(type='CrossEntropyLoss', use_soft=soft)), kind.feats()
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # mmpretrain's heads warn or fail here
        value = head.loss(feats, samples(soft))['loss']
    features = feats[0][0] if kind.tokens else feats[0]
    logits = head.get_submodule(kind.label)(features).double()
    target = torch.stack([s.gt_score for s in samples(True)]).double() if soft else torch.eye(5)[[0, 3, 1]].double()
    expected = -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    value.backward()
    assert all(weight.grad.abs().sum() > 0 for weight in head.get_submodule(kind.label).parameters())
    assert all(weight.grad is None for weight in head.get_submodule(kind.teacher).parameters())


@all_kinds
def test_without_a_teacher_both_classifiers_learn_the_labels(kind):
    head, feats = build(kind.ours, distilled_training=False, loss=dict(type='CrossEntropyLoss')), kind.feats()
    value = head.loss(feats, samples(soft=False))['loss']
    torch.testing.assert_close(value, torch.nn.functional.cross_entropy(head(feats), torch.tensor([0, 3, 1])))
    value.backward()
    gradients = [list(head.get_submodule(path).parameters())[-1].grad for path in (kind.label, kind.teacher)]
    assert torch.equal(*gradients)
    assert gradients[0].abs().sum() > 0


@pytest.mark.parametrize('kind', KINDS[1:], ids=lambda kind: kind.theirs)
def test_head_without_distillation_is_trained_as_in_mmpretrain(kind):
    head = build(kind.ours, distillation=False, loss=dict(type='CrossEntropyLoss'))
    plain = build(kind.theirs, distillation=False, loss=dict(type='CrossEntropyLoss'))
    values = [each.loss(kind.feats(), samples(soft=False))['loss'] for each in (head, plain)]
    assert torch.equal(*values)


@pytest.mark.parametrize(('name', 'stage', 'logits', 'tokenizer'), STUDENTS, ids=[student[0] for student in STUDENTS])
def test_distilled_students_of_the_zoo_train_and_load_in_mmpretrain(name, stage, logits, tokenizer):
    torch.manual_seed(0)
    original = ModelHub.get(name).config.model
    teacher = 'deit-tiny_4xb256_in1k' if tokenizer == 'PatchTokenizer' else 'resnet18_8xb32_in1k'
    teacher_stage = 'backbone.layers[-1]' if tokenizer == 'PatchTokenizer' else 'backbone.layer1'
    merger = dict(type='SuperpixelMerger', grid=(2, 2))
    view = dict(tap='stage', tokenizer=dict(type=tokenizer), merger=merger)
    model = MODELS.build(
        dict(
            type='RelationDistiller',
            student=dict(model=name, taps=dict(stage=stage, logits=logits)),
            teacher=dict(model=teacher, allow_random_teacher=True, taps=dict(stage=teacher_stage, logits='head')),
            views=dict(superpixels=view),
            losses=dict(
                loss_kd=dict(type='LogitKLLoss', on='logits'),
                loss_rd=dict(type='TokenDistanceLoss', on='superpixels'),
                loss_ra=dict(type='TokenAngleLoss', on='superpixels'),
            ),
            input_size=(3, 224, 224),
        )
    )
    assert type(model.head).__name__ == TRAINABLE_HEADS[original.head.type]
    made = dict(inputs=torch.randint(0, 256, (2, 3, 224, 224)), data_samples=samples(soft=False)[:2])
    terms = model(**model.data_preprocessor(made, training=True), mode='loss')
    total, _ = model.parse_losses(terms)
    total.backward()
    assert [weight for weight, value in model.named_parameters() if value.requires_grad and value.grad is None] == []
    assert set(terms) == {'loss_cls', 'loss_kd', 'loss_rd', 'loss_ra'}

    theirs = MODELS.build(original)
    theirs.load_state_dict({n: v for n, v in model.state_dict().items() if not n.startswith('distill.')})
    inputs = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(theirs.eval()(inputs, mode='tensor'), model.eval()(inputs, mode='tensor'))


@pytest.mark.parametrize('type_', ['DeiTClsHead', 'mmpretrain.DeiTClsHead', DeiTClsHead])
def test_heads_are_replaced_in_nested_configs(type_):
    config = dict(type='ImageClassifier', head=dict(type=type_), models=[dict(head=(dict(type=type_), 'DeiTClsHead'))])
    make_heads_trainable(config)
    head = dict(type='DeiTDistilledClsHead')
    assert config == dict(type='ImageClassifier', head=head, models=[dict(head=(head, 'DeiTClsHead'))])
