import warnings

import pytest
import torch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

import serkd_mm  # noqa: F401

SETTINGS = dict(num_classes=5, in_channels=8)


@pytest.fixture
def feats():
    generator = torch.Generator().manual_seed(0)
    return ([torch.randn(3, 8, generator=generator), torch.randn(3, 8, generator=generator)],)


def build(type_, **settings):
    head = MODELS.build(dict(type=type_, **SETTINGS, **settings))
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


@pytest.mark.parametrize('hidden_dim', [None, 6])
def test_parameters_and_predictions_are_those_of_mmpretrain(feats, hidden_dim):
    theirs = build('DeiTClsHead', hidden_dim=hidden_dim).eval()
    ours = build('DeiTDistilledClsHead', hidden_dim=hidden_dim).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(feats), theirs(feats))
    ours_score = [sample.pred_score for sample in ours.predict(feats)]
    theirs_score = [sample.pred_score for sample in theirs.predict(feats)]
    assert all(torch.equal(a, b) for a, b in zip(ours_score, theirs_score, strict=True))


@pytest.mark.parametrize('soft', [False, True])
def test_labels_teach_the_class_token_head_alone(feats, soft):
    loss = dict(type='CrossEntropyLoss', use_soft=soft)
    head = build('DeiTDistilledClsHead', loss=loss)
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # mmpretrain's own head warns that it cannot be trained
        value = head.loss(feats, samples(soft))['loss']
    logits = feats[0][0].double() @ head.layers.head.weight.double().T + head.layers.head.bias.double()
    target = torch.stack([s.gt_score for s in samples(True)]).double() if soft else torch.eye(5)[[0, 3, 1]].double()
    expected = -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
    value.backward()
    assert head.layers.head.weight.grad.abs().sum() > 0
    assert head.layers.head_dist.weight.grad is None


def test_without_a_teacher_both_heads_learn_the_labels(feats):
    head = build('DeiTDistilledClsHead', distilled_training=False)
    value = head.loss(feats, samples(soft=False))['loss']
    expected = torch.nn.functional.cross_entropy(head(feats), torch.tensor([0, 3, 1]))
    torch.testing.assert_close(value, expected)
    value.backward()
    assert torch.equal(head.layers.head.bias.grad, head.layers.head_dist.bias.grad)
