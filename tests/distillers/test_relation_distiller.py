"""One step of the distiller: its losses, the parameters that it trains and those that it must not change."""

import copy
from collections import Counter
from unittest.mock import Mock

import pytest
import torch
from builders import STUDENT, TEACHER, build_distiller, cnn_distiller_config, distiller_config, images, labels
from formulas import dense_superpixels
from mmpretrain.apis import ModelHub
from mmpretrain.registry import MODELS

from serkd_mm.config_errors import ConfigError
from serkd_mm.distillers.taps import single_tensor
from serkd_mm.ops import reference

LOSSES = ['loss_cls', 'loss_kd', 'loss_feat', 'loss_rd', 'loss_ra']


def patch_grid(model, inputs):
    """Compute the patch tokens of the last block as a grid ``(B, C, 4, 4)``, without taps."""
    kept = {}
    handle = model.backbone.layers[-1].register_forward_hook(lambda *args: kept.update(tokens=args[2]))
    model(inputs, mode='tensor')
    handle.remove()
    return kept['tokens'][:, model.backbone.num_extra_tokens :].mT.unflatten(2, (4, 4))


@pytest.mark.parametrize('batch', [1, 4])
def test_every_loss_equals_the_paper_s_equation(batch):
    model = build_distiller()
    inputs, samples = images(batch), labels(batch)
    losses = model(inputs, samples, mode='loss')
    assert list(losses) == LOSSES

    student, teacher = model.student, model.teacher.model
    grids = [patch_grid(side, inputs).detach() for side in (student, teacher)]
    superpixels = [dense_superpixels(grid, 2, 1)[0] for grid in grids]
    student_tokens, teacher_tokens = (grid.flatten(2).mT.double() for grid in grids)
    projector = model.distill.losses.loss_feat.patches.projector
    projected = student_tokens @ projector.weight.double().T + projector.bias.double()
    class_token, dist_token = student.backbone(inputs)[-1]
    class_logits, dist_logits = student.head.layers.head(class_token), student.head.layers.head_dist(dist_token)
    log_student, log_teacher = (x.double().log_softmax(1) for x in (dist_logits, teacher(inputs)))
    target = torch.tensor([sample.gt_label for sample in samples])
    expected = {
        'loss_cls': -class_logits.double().log_softmax(1).gather(1, target[:, None]).mean(),
        'loss_kd': (log_teacher.exp() * (log_teacher - log_student)).sum(1).mean(),
        'loss_feat': (projected - teacher_tokens).square().mean(),
        'loss_rd': 0.5 * reference.distance_relation_loss(*superpixels),
        'loss_ra': reference.angle_relation_loss(*superpixels),
    }
    for name in LOSSES:
        torch.testing.assert_close(losses[name].double(), expected[name], rtol=2e-5, atol=1e-9, msg=name)


def test_the_teacher_stays_bit_identical_and_in_eval_mode_while_the_student_trains():
    teacher_with_batch_norm = dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=18, num_stages=4, out_indices=(3,)),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=4, in_channels=512),
    )
    removed = dict(loss_feat=None, loss_rd=None, loss_ra=None)
    model = build_distiller(
        teacher__model=teacher_with_batch_norm,
        teacher__taps=dict(logits='head.fc'),
        losses=dict(distiller_config().losses, **removed),
    )
    before = copy.deepcopy(model.teacher.state_dict())
    student_before = copy.deepcopy(model.student.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(3):
        model.train()
        assert not any(module.training for module in model.teacher.modules())
        sum(model(images(4, seed=step), labels(), mode='loss').values()).backward()
        optimizer.step()
    after = model.teacher.state_dict()
    assert any('running_mean' in name for name in after)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(weight.grad is None and not weight.requires_grad for weight in model.teacher.parameters())
    model.teacher.train()
    assert not any(module.training for module in model.teacher.modules())
    changed = [name for name, value in model.student.state_dict().items() if not torch.equal(value, student_before[name])]
    assert 'backbone.layers.0.attn.qkv.weight' in changed
    assert 'head.layers.head_dist.weight' in changed


@pytest.mark.parametrize('config', [distiller_config, cnn_distiller_config])
def test_every_student_parameter_and_every_distillation_layer_gets_a_gradient(config):
    model = build_distiller(config)
    sum(model(images(), labels(), mode='loss').values()).backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_the_teacher_is_not_a_submodule_and_copies_share_it():
    model = build_distiller()
    teacher = {id(tensor) for tensor in [*model.teacher.parameters(), *model.teacher.buffers()]}
    assert teacher.isdisjoint(id(tensor) for tensor in [*model.parameters(), *model.buffers()])
    assert model.teacher.model not in list(model.modules())
    copied = copy.deepcopy(model)
    assert copied.teacher is model.teacher
    assert copied.student is not model.student
    assert torch.equal(copied(images()), model(images()))
    sum(copied(images(), labels(), mode='loss').values()).backward()
    assert all(weight.grad is None for weight in model.parameters()), 'the copy taps its own student'


def test_the_teacher_moves_to_the_images_and_not_with_a_copy():
    model = build_distiller()
    copy.deepcopy(model).to('meta')
    assert model.teacher.model.head.fc.weight.device.type == 'cpu'
    losses = model.double()(images().double(), labels(), mode='loss')
    assert model.teacher.model.head.fc.weight.dtype == torch.float64
    assert all(value.isfinite() and value.dtype == torch.float64 for value in losses.values())


def test_the_dry_run_changes_no_weight_and_leaves_no_gradient_or_hook():
    torch.manual_seed(3)
    plain = MODELS.build(copy.deepcopy(STUDENT)).state_dict()
    torch.manual_seed(3)
    model = MODELS.build(distiller_config())
    assert all(torch.equal(value, model.student.state_dict()[name]) for name, value in plain.items())
    assert all(weight.grad is None for weight in model.parameters())
    assert model.training
    assert not any(module._forward_hooks for module in [*model.modules(), *model.teacher.modules()])


def cnn_student(*stages):
    """Return the config of a ResNet-18 that returns the last of ``stages`` and is distilled by logits alone."""
    student = dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=18, num_stages=4, out_indices=stages),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=4, in_channels=64 * 2 ** stages[-1], loss=dict(type='CrossEntropyLoss')),
    )
    only_logits = {name: loss if name == 'loss_kd' else None for name, loss in distiller_config().losses.items()}
    return distiller_config(student=dict(model=student, taps=dict(logits='head')), views=None, losses=only_logits)


def test_the_dry_run_changes_neither_running_statistics_nor_queues():
    model = MODELS.build(cnn_student(3))
    means = [value for name, value in model.student.named_buffers() if name.endswith('running_mean')]
    assert means
    assert all((mean == 0).all() for mean in means)
    with_queue = build_distiller(losses__loss_rrd=dict(type='RRDLoss', on='tokens', queue_size=8))
    assert with_queue.distill.losses.loss_rrd.patches.num_enqueued == 0
    with_queue(images(), labels(), mode='loss')
    assert with_queue.distill.losses.loss_rrd.patches.num_enqueued == 4


def test_parameters_that_no_loss_reaches_are_logged(logged):
    MODELS.build(cnn_student(2))
    (message,) = [message for message in logged if 'No loss reaches' in message]
    assert 'backbone.layer4.0.conv1.weight' in message
    assert 'backbone.layer3' not in message


def test_parameters_that_are_used_in_training_only_are_not_logged(logged):
    # LeViT caches its attention biases in evaluation mode.
    config = distiller_config(
        student=dict(model='levit-128s_3rdparty_in1k', taps=dict(patches='backbone.stages[0]', logits='head.head_dist')),
        teacher__model='deit-tiny_4xb256_in1k',
    )
    config.data_preprocessor = None  # the zoo's own
    MODELS.build(config)
    assert not [message for message in logged if 'No loss reaches' in message]


def test_prediction_and_features_are_the_student_s():
    model = build_distiller().eval()
    inputs = images()
    logits = model(inputs)
    assert torch.equal(logits, model.student(inputs))
    scores = torch.stack([sample.pred_score for sample in model(inputs, labels(), mode='predict')])
    torch.testing.assert_close(scores, logits.softmax(dim=1))
    assert torch.equal(torch.stack([sample.pred_score for sample in model.predict(inputs)]), scores)
    assert torch.equal(model.extract_feat(inputs)[-1][0], model.student.extract_feat(inputs)[-1][0])
    assert model.with_head
    assert not model.with_neck
    assert model.get_layer_depth('student.backbone.layers.1.ln1.weight') == model.student.get_layer_depth(
        'backbone.layers.1.ln1.weight'
    )


def test_a_loss_of_none_is_removed_and_an_unread_view_is_not_computed():
    model = build_distiller(losses__loss_feat=None)
    assert list(model(images(), labels(), mode='loss')) == ['loss_cls', 'loss_kd', 'loss_rd', 'loss_ra']
    assert list(model.distill.views) == ['superpixels']
    assert not [name for name in model.state_dict() if name.startswith('distill.')]


@pytest.mark.parametrize('config', [distiller_config, cnn_distiller_config])
def test_teacher_student_tokenizers_and_mergers_run_once_per_step(config):
    model = build_distiller(config)
    expected = {'teacher': 1, 'student': 1}
    modules = {'teacher': model.teacher.model.backbone, 'student': model.student.backbone}
    for name, tokenizer in model.distill.tokenizers.items():
        modules[f'tokenizer {name}'] = tokenizer.student
        expected[f'tokenizer {name}'] = 2  # Student and teacher share it.
    for name, view in model.distill.views.items():
        modules[f'merger {name}'] = view.merger
        expected[f'merger {name}'] = 2 * len(view.taps)  # Student and teacher share it.
    calls = Counter()
    for name, module in modules.items():
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    model(images(), labels(), mode='loss')
    assert calls == expected


@pytest.mark.parametrize('config', [distiller_config, cnn_distiller_config])
def test_extract_features_returns_what_training_taps(config):
    model = build_distiller(config).eval()  # In training mode, the first step would change the statistics of the second.
    kept = {'student': {}, 'teacher': {}}
    for side, network, taps in (
        ('student', model.student, model.student_taps),
        ('teacher', model.teacher.model, model.teacher.taps),
    ):
        for name, path in taps.paths.items():
            module = eval(f'network.{path}', {'network': network})
            module.register_forward_hook(lambda *args, side=side, name=name: kept[side].update({name: args[2]}))
    hooks = {module: len(module._forward_hooks) for module in [*model.modules(), *model.teacher.modules()]}
    model(images(), labels(), mode='loss')
    trained = {side: {name: single_tensor(output) for name, output in kept[side].items()} for side in kept}

    student, teacher = model.extract_features(images().requires_grad_())
    for side, features in (('student', student), ('teacher', teacher)):
        assert features.keys() == trained[side].keys() == model.distill.used_taps.keys()
        for name, feature in features.items():
            assert torch.equal(feature.tensor, trained[side][name]), (side, name)
            assert feature.image_size == (32, 32)
            assert feature.tensor.requires_grad == (side == 'student')
    assert hooks == {module: len(module._forward_hooks) for module in hooks}


def test_hooks_are_removed_when_the_model_raises(monkeypatch):
    model = build_distiller()
    monkeypatch.setattr(model.student.head, 'forward', Mock(side_effect=RuntimeError('interrupted')))
    with pytest.raises(RuntimeError, match='interrupted'):
        model.extract_features(images())
    assert not any(module._forward_hooks for module in [*model.modules(), *model.teacher.modules()])


def test_extract_features_loads_the_teacher_s_weights(tmp_path):
    teacher = MODELS.build(copy.deepcopy(TEACHER))
    torch.save(teacher.state_dict(), tmp_path / 'teacher.pth')
    config = distiller_config(teacher__checkpoint=str(tmp_path / 'teacher.pth'), teacher__allow_random_teacher=False)
    _, features = MODELS.build(config).extract_features(images())
    assert torch.equal(features['logits'].tensor, teacher.eval()(images()))


def test_extract_features_without_a_teacher_is_refused():
    with pytest.raises(ConfigError, match=r'model\.teacher is None'):
        MODELS.build(distiller_config(teacher=None)).extract_features(images())


def test_soft_targets_of_mixup_reach_both_sides():
    model = build_distiller(student__model__train_cfg=dict(augments=dict(type='Mixup', alpha=0.8)))
    seen = []
    model.teacher.model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.student.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    torch.manual_seed(0)
    raw = dict(inputs=torch.randint(0, 256, (4, 3, 32, 32)), data_samples=labels())
    data = model.data_preprocessor(raw, training=True)
    assert 'gt_score' in data['data_samples'][0]
    losses = model(**data, mode='loss')
    assert losses['loss_cls'].isfinite()
    assert len(seen) == 2
    assert torch.equal(*seen)


def test_images_of_another_size_than_the_dry_run_s():
    model = build_distiller()
    losses = model(images(2, size=48), labels(2), mode='loss')
    assert all(value.isfinite() for value in losses.values())


def test_autocast_trains_and_keeps_relations_in_float32():
    model = build_distiller()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = model(images(), labels(), mode='loss')
    assert losses['loss_rd'].dtype == losses['loss_ra'].dtype == losses['loss_kd'].dtype == torch.float32
    sum(losses.values()).backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


def test_student_and_teacher_by_config_file_and_zoo_name():
    model = MODELS.build(
        distiller_config(
            student__model='mmpretrain::deit/deit-tiny-distilled_4xb256_in1k.py',
            teacher__model='deit-tiny_4xb256_in1k',
            data_preprocessor=None,
            input_size=(3, 64, 64),
        )
    )
    assert type(model.head).__name__ == 'DeiTDistilledClsHead', "mmpretrain's head would refuse to train"
    assert model.data_preprocessor.batch_augments is not None
    assert type(model.teacher.model.backbone).__name__ == 'VisionTransformer'


def test_the_zoo_s_config_is_not_changed():
    name = 'deit-tiny-distilled_3rdparty_in1k'
    MODELS.build(distiller_config(teacher=None, student__model=name))
    assert ModelHub.get(name).config.model.head.type == 'DeiTClsHead'


def test_the_config_s_preprocessor_takes_precedence_over_the_zoo_student_s():
    student = 'mmpretrain::deit/deit-tiny-distilled_4xb256_in1k.py'
    ours = dict(num_classes=1000, mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0])
    for given, mean in ((ours, [1.0, 2.0, 3.0]), (None, [123.675, 116.28, 103.53])):
        model = MODELS.build(distiller_config(teacher=None, student__model=student, data_preprocessor=given))
        torch.testing.assert_close(model.data_preprocessor.mean.flatten(), torch.tensor(mean))


def test_the_projector_fits_a_teacher_of_another_width():
    teacher = copy.deepcopy(TEACHER)
    teacher['backbone']['arch']['embed_dims'] = 16
    model = build_distiller(teacher__model=dict(teacher, head=dict(teacher['head'], in_channels=16)))
    assert model.distill.losses.loss_feat.patches.projector.weight.shape == (16, 16)
