"""Losses that read labels get those of the batch, soft or hard; the task loss has a weight."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import NUM_CLASSES, STUDENT, TEACHER, build_distiller, distiller_config, images, labels
from caches import VIEW_PREPROCESSOR, samples_with_records, write_teacher_cache
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from training_variants import TIMM_STUDENT

from serkd_mm.config_errors import ConfigError
from serkd_mm.distillers.task_loss import TaskLoss
from serkd_mm.losses.base_loss import BaseDistillationLoss

CLASS_HEAD_TOO = dict(  # The teacher's logits also for the head that the labels train.
    student__taps__class_logits='head.layers.head',
    teacher__taps__class_logits='head.fc',
    losses__loss_class=dict(type='LogitKLLoss', on='class_logits'),
)
MIXED = dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)])


class LabelLoss(BaseDistillationLoss):
    """Cross-entropy of the student's logits with the labels, which it keeps."""

    needs_labels = True

    def compare(self, student, teacher, target):
        self.target = target
        return F.cross_entropy(student, target) + 0 * teacher.sum()


def with_label_loss(**changes):
    """A small pair whose only distillation loss reads labels, on all logits of the student."""
    losses = {'loss_labels': dict(type=LabelLoss, on='logits'), **changes.pop('losses', {})}
    return distiller_config(views=None, losses=losses, **changes)


def step(model, samples=None):
    """Preprocess a raw batch and take a step; return the samples, the losses and what the loss has read."""
    raw = dict(inputs=torch.randint(0, 256, (4, 3, 32, 32)).float(), data_samples=samples or labels())
    data = model.data_preprocessor(raw, training=True)
    losses = model(**data, mode='loss')
    return data['data_samples'], losses, model.distill.losses['loss_labels']['logits'].target


@pytest.mark.parametrize('augments', [None, MIXED], ids=['hard', 'soft'])
def test_labels_are_those_of_the_preprocessed_batch(augments):
    config = with_label_loss()
    if augments:
        config.student.model['train_cfg'] = augments
    model = MODELS.build(config)
    np.random.seed(0)
    torch.manual_seed(0)
    are_mixed = []
    for _ in range(4):
        samples, losses, target = step(model)
        if augments:
            expected = torch.stack([sample.gt_score for sample in samples])
        else:
            expected = torch.eye(NUM_CLASSES)[[int(sample.gt_label) for sample in samples]]
        assert target.dtype == torch.float32
        assert torch.equal(target, expected)
        assert losses['loss_labels'] > 0
        are_mixed.append(bool(((target > 0) & (target < 1)).any()))
    assert any(are_mixed) == bool(augments)


def test_the_student_may_be_of_timm_and_labels_of_a_large_batch_are_in_order():
    pytest.importorskip('timm')
    config = with_label_loss(student__model=dict(TIMM_STUDENT), student__taps=None)
    _, losses, target = step(MODELS.build(config), [DataSample().set_gt_label(label) for label in (3, 0, 0, 2)])
    assert target.argmax(dim=1).tolist() == [3, 0, 0, 2]
    # The loss reads the logits of the head, and so does the task loss.
    assert losses['loss_labels'].item() == pytest.approx(losses['loss_cls'].item(), rel=1e-5)


def test_labels_are_read_beside_a_cache_and_several_teachers(tmp_path):
    changes = dict(losses__loss_labels=dict(type=LabelLoss, on='logits'))
    live = build_distiller(**changes)
    write_teacher_cache(tmp_path, live, images(), distiller_config(**changes).teacher)
    settings = distiller_config(**changes)
    settings.data_preprocessor = copy.deepcopy(VIEW_PREPROCESSOR)
    settings.teacher.cache = str(tmp_path)
    cached = MODELS.build(settings)
    cached.load_state_dict(live.state_dict())
    losses = cached(images(), samples_with_records(tmp_path, labels()), mode='loss')
    torch.testing.assert_close(losses, live(images(), labels(), mode='loss'), rtol=1e-5, atol=1e-6)

    several = with_label_loss()
    teacher = several.pop('teacher')
    several.teachers = dict(one=teacher, two=dict(teacher, model=copy.deepcopy(TEACHER)))
    several.losses.loss_labels.teacher = 'one'
    several.losses.loss_more = dict(type=LabelLoss, on='logits', teacher='two')
    losses = MODELS.build(several)(images(), labels(), mode='loss')
    assert losses['loss_labels'].item() == pytest.approx(losses['loss_more'].item())


def test_the_task_loss_is_weighted_with_its_gradient():
    gradients = {}
    for weight in (1.0, 0.5, 0.0):
        model = build_distiller(losses__loss_cls=dict(loss_weight=weight), **CLASS_HEAD_TOO)
        loss = model(images(), labels(), mode='loss')['loss_cls']
        loss.backward()
        gradients[weight] = loss.item(), model.student.head.layers.head.weight.grad.clone()
    assert gradients[1.0][0] > 0
    assert gradients[0.5][0] == pytest.approx(gradients[1.0][0] / 2)
    torch.testing.assert_close(gradients[0.5][1], gradients[1.0][1] / 2)
    assert gradients[0.0][0] == gradients[0.0][1].abs().max() == 0
    with pytest.raises(ConfigError, match=r'^model\.losses\.loss_cls must be a dict, but is 0\.5'):
        build_distiller(losses__loss_cls=0.5)


def test_a_loss_that_reads_labels_is_refused_without_them():
    refusal = r'^model\.losses: loss_labels reads labels, but loss_cls=None trains without any.*loss_weight=0\.0'
    with pytest.raises(ConfigError, match=refusal):
        MODELS.build(with_label_loss(losses=dict(loss_cls=None)))
    model = MODELS.build(with_label_loss(losses=dict(loss_cls=dict(loss_weight=0.0)), **CLASS_HEAD_TOO))
    _, losses, _ = step(model)
    assert losses['loss_cls'] == 0 < losses['loss_labels']


def test_a_head_that_only_a_loss_without_weight_reaches_is_reported(logged):
    untrained = (
        r"^model\.losses: loss_cls\.loss_weight=0, and no other loss trains the student's head\.layers\.head\.weight, "
        r'head\.layers\.head\.bias, which contributes to every prediction. Put a loss on'
    )
    with pytest.raises(ConfigError, match=untrained):
        build_distiller(losses__loss_cls=dict(loss_weight=0.0))
    build_distiller(
        losses__loss_cls=dict(loss_weight=0.0), losses__loss_kd=None, student__model__head__distilled_training=False
    )
    assert any('predictions are not trained' in message for message in logged)
    rising = dict(type='Linear', begin=0.0, end=1.0)
    build_distiller(losses__loss_cls=dict(loss_weight=rising))  # Trained later.


def test_the_labels_of_a_head_that_does_not_count_its_classes():
    head = dict(type='VigClsHead', num_classes=NUM_CLASSES, in_channels=16, hidden_dim=8)
    backbone = dict(type='VisionTransformer', arch=STUDENT['backbone']['arch'], img_size=32, patch_size=8)
    student = dict(model=dict(type='ImageClassifier', backbone=backbone, head=head), taps=dict(logits='head'))
    config = with_label_loss(student=student)
    _, _, target = step(MODELS.build(config))
    assert torch.equal(target, torch.eye(NUM_CLASSES))
    config.data_preprocessor.pop('num_classes')
    with pytest.raises(ConfigError, match=r"the student's VigClsHead does not say.*Set data_preprocessor\.num_classes"):
        MODELS.build(config)


def test_the_weight_of_a_list_of_losses():
    weighted = TaskLoss(dict(loss_weight=0.5))(
        {'loss': [torch.tensor(2.0), torch.tensor(4.0)], 'accuracy': torch.tensor(9.0)}
    )
    assert weighted == {'loss_cls': [1, 2], 'accuracy': 9}
