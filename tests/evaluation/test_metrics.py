"""kNN accuracy and held-out losses: their values, and in complete trainings without labels."""

import math

import pytest
import torch
from builders import build_distiller, images, training_config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from training_variants import unlabeled_config

from serkd_mm.config_errors import ConfigError
from serkd_mm.distillers.model_parts import pooled_features
from serkd_mm.evaluation import DistillationLosses, KNNAccuracy
from serkd_mm.hooks import DataError

pytestmark = pytest.mark.usefixtures('runner_scope')


def votes(features, labels, image, k, tau):
    """Vote for the label of one image, as DINO's paper writes it."""
    similarity = torch.cosine_similarity(features[image], features, dim=1).tolist()
    others = sorted((other for other in range(len(labels)) if other != image), key=lambda other: -similarity[other])
    counted = dict.fromkeys(labels, 0.0)
    for other in others[:k]:
        counted[labels[other]] += math.exp(similarity[other] / tau)
    return max(counted, key=counted.get)


@pytest.mark.parametrize(('k', 'tau'), [(5, 0.07), (1, 1.0), (1000, 0.2), (5, 0.005)])
def test_knn_accuracy_is_that_of_weighted_votes(k, tau, monkeypatch):
    monkeypatch.setattr('serkd_mm.evaluation.knn_accuracy._QUERIES', 7)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (40,), generator=generator).add(5).tolist()
    features = torch.randn(40, 6, generator=generator) + torch.tensor(labels)[:, None] * torch.randn(6, generator=generator)
    metric = KNNAccuracy(k=k, tau=tau)
    pairs = zip(features, labels, strict=True)
    metric.process(None, [{'pooled_features': feature, 'gt_label': torch.tensor([label])} for feature, label in pairs])
    correct = sum(votes(features, labels, image, k, tau) == labels[image] for image in range(40))
    assert 10 < correct < 40
    assert metric.evaluate(40) == {'knn/top1': 100 * correct / 40}


def test_losses_are_averaged_over_images():
    metric = DistillationLosses()
    for size, value in ((3, 1.0), (1, 5.0)):
        losses = {'loss_feat': torch.tensor(value), 'loss_rd': torch.tensor(2 * value), 'accuracy': [torch.tensor(50.0)]}
        metric.process(None, [{'distillation_losses': losses}] * size)
    means = {'loss': 6.0, 'loss_feat': 2.0, 'loss_rd': 4.0, 'accuracy': 50.0}  # A head's cal_acc gives a list.
    assert metric.evaluate(4) == {f'distillation/{name}': value for name, value in means.items()}


@pytest.mark.parametrize('settings', [dict(k=0), dict(k=2.5), dict(tau=0), dict(tau='1')])
def test_unusable_settings_are_reported(settings):
    with pytest.raises(ConfigError, match=rf'^KNNAccuracy\.{next(iter(settings))} must be'):
        KNNAccuracy(**settings)


def test_predictions_hold_what_is_requested_only():
    model = build_distiller().eval()
    assert 'pooled_features' not in model(images(), mode='predict')[0]
    model.evaluation_outputs = frozenset({'pooled_features'})
    samples = model(images(), mode='predict')
    assert torch.equal(torch.stack([sample.pooled_features for sample in samples]), pooled_features(model, images()))
    assert 'distillation_losses' not in samples[0]
    with pytest.raises(ConfigError, match=r'KNNAccuracy: .* 0 labels, and needs one'):
        KNNAccuracy().process(None, [sample.to_dict() for sample in samples])
    with pytest.raises(ConfigError, match=r'DistillationLosses: the predictions contain no distillation_losses. Add'):
        DistillationLosses().process(None, [sample.to_dict() for sample in samples])


def test_held_out_losses_read_the_one_hot_labels_of_a_student_that_is_trained_with_mixup():
    mixed = dict(train_cfg=dict(augments=dict(type='Mixup', alpha=0.8)), head__loss=dict(type='CrossEntropyLoss'))
    model = build_distiller(**{f'student__model__{name}': value for name, value in mixed.items()}).eval()
    batch = dict(inputs=images(), data_samples=[DataSample().set_gt_label(label % 2) for label in range(len(images()))])
    batch = model.data_preprocessor(batch, training=False)
    model.evaluation_outputs = frozenset({'distillation_losses'})
    losses = model(**batch, mode='predict')[0].distillation_losses
    hard = [DataSample().set_gt_label(sample.gt_label) for sample in batch['data_samples']]
    torch.testing.assert_close(losses['loss_cls'], model.student.loss(batch['inputs'], hard)['loss'])


class Seen(Hook):
    """Record the images of the training."""

    def __init__(self):
        self.inputs = []

    def before_train(self, runner):
        runner.model.data_preprocessor.register_forward_hook(self.keep)

    def keep(self, module, inputs, output):
        if module.training:
            plain = (inputs[0]['inputs'].flip(1).float() - module.mean) / module.std
            self.inputs.append(torch.equal(plain, output['inputs']))


def test_training_without_labels_is_evaluated_by_neighbors_and_held_out_losses(image_root, tmp_path):
    config = unlabeled_config(image_root, tmp_path)
    config.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    runner, seen = Runner.from_cfg(config), Seen()
    runner.register_hook(seen)
    runner.train()
    history = runner.message_hub.log_scalars
    assert [name for name in history if name.startswith('train/loss')] == [
        'train/loss', 'train/loss_feat', 'train/loss_rd', 'train/loss_ra'
    ]  # fmt: skip
    assert len(seen.inputs) == 6
    assert not any(seen.inputs)  # All batches are mixed.
    validated = {
        name: history[f'val/{name}'].data[0] for name in ('distillation/loss', 'distillation/loss_feat', 'knn/top1')
    }
    assert all(len(values) == 2 for values in validated.values())
    assert validated['distillation/loss'][1] < validated['distillation/loss'][0]
    best = [path.name for path in tmp_path.glob('best_*')]
    assert best == ['best_distillation_loss_epoch_2.pth']  # The first metric, and less is better.
    meta = torch.load(tmp_path / 'epoch_2.pth', weights_only=True)['meta']
    assert meta['untrained_head'] == ['head.weight', 'head.bias']

    # An evaluation needs no teacher, and finds the value of the validation.
    config = unlabeled_config(image_root, tmp_path, load_from=str(tmp_path / 'epoch_2.pth'))
    config.model.teacher = None
    config.custom_hooks.append(dict(type='CompleteCheckpointHook'))
    assert Runner.from_cfg(config).test() == {'knn/top1': validated['knn/top1'][1]}
    config.test_evaluator = dict(type='Accuracy', topk=1)
    with pytest.raises(ConfigError, match=r'^test_evaluator: Accuracy reads the class head of the student, which nothing'):
        Runner.from_cfg(config).test()


def use_accuracy(config):
    config.val_evaluator = dict(type='Accuracy', topk=1)


def remove_labels(config):
    config.val_dataloader.dataset.with_label = False


def read_labels(config):
    del config.model.losses['loss_cls']


@pytest.mark.parametrize(
    ('change', 'error', 'message'),
    [
        (use_accuracy, ConfigError, '^val_evaluator: Accuracy reads the class head'),
        (remove_labels, DataError, '^val_evaluator: KNNAccuracy compares labels, and the images'),
        (read_labels, DataError, r'^train_dataloader\.dataset: the images have no labels, .*loss_cls=None'),
    ],
)
def test_metrics_and_losses_without_what_they_read_fail_before_training(change, error, message, image_root, tmp_path):
    config = unlabeled_config(image_root, tmp_path)
    change(config)
    with pytest.raises(error, match=message):
        Runner.from_cfg(config).train()


def test_held_out_losses_need_a_teacher(image_root, tmp_path):
    config = unlabeled_config(image_root, tmp_path)
    config.test_evaluator = dict(type='DistillationLosses')
    config.model.teacher = None
    with pytest.raises(ConfigError, match=r'^test_evaluator: DistillationLosses needs the teacher'):
        Runner.from_cfg(config).test()
    config = training_config(image_root, tmp_path)
    config.model = dict(config.model.student.model)
    config.val_evaluator = dict(type='KNNAccuracy')
    with pytest.raises(ConfigError, match=r'^val_evaluator: KNNAccuracy needs a RelationDistiller'):
        Runner.from_cfg(config).train()
