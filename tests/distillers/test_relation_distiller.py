"""One step of the distiller: what it computes, what it trains and what it leaves alone."""

import copy

import pytest
import torch
from builders import STUDENT, TEACHER, build_distiller, distiller_config, images, labels
from mmpretrain.apis import ModelHub
from mmpretrain.registry import MODELS
from reference import dense_superpixels, listing_angle_loss, listing_distance_loss

LOSSES = ['loss_cls', 'loss_kd', 'loss_feat', 'loss_rd', 'loss_ra']


def patch_grid(model, inputs):
    """Patch tokens of the last block as a grid ``(B, C, 4, 4)``, found without taps."""
    kept = {}
    handle = model.backbone.layers[-1].register_forward_hook(lambda *args: kept.update(tokens=args[2]))
    model(inputs, mode='tensor')
    handle.remove()
    return kept['tokens'][:, model.backbone.num_extra_tokens :].mT.unflatten(2, (4, 4))


@pytest.mark.parametrize('batch', [1, 4])
def test_every_term_is_the_paper_s(batch):
    model = build_distiller()
    inputs, samples = images(batch), labels(batch)
    losses = model(inputs, samples, mode='loss')
    assert list(losses) == LOSSES

    student, teacher = model.student, model.teacher.model
    grids = [patch_grid(side, inputs).detach() for side in (student, teacher)]
    superpixels = [dense_superpixels(grid, 2, 1)[0] for grid in grids]
    student_tokens, teacher_tokens = (grid.flatten(2).mT.double() for grid in grids)
    projector = model.distill.losses.loss_feat.projector
    projected = student_tokens @ projector.weight.double().T + projector.bias.double()
    class_token, dist_token = student.backbone(inputs)[-1]
    class_logits, dist_logits = student.head.layers.head(class_token), student.head.layers.head_dist(dist_token)
    log_student, log_teacher = (x.double().log_softmax(1) for x in (dist_logits, teacher(inputs)))
    target = torch.tensor([sample.gt_label for sample in samples])
    expected = {
        'loss_cls': -class_logits.double().log_softmax(1).gather(1, target[:, None]).mean(),
        'loss_kd': (log_teacher.exp() * (log_teacher - log_student)).sum(1).mean(),
        'loss_feat': (projected - teacher_tokens).square().mean(),
        'loss_rd': 0.5 * listing_distance_loss(*superpixels),
        'loss_ra': listing_angle_loss(*superpixels),
    }
    for name in LOSSES:
        torch.testing.assert_close(losses[name].double(), expected[name], rtol=2e-5, atol=1e-9, msg=name)


def test_the_teacher_stays_bit_identical_and_in_eval_while_the_student_learns():
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


def test_every_student_parameter_and_the_projector_get_a_gradient():
    model = build_distiller()
    sum(model(images(), labels(), mode='loss').values()).backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_nothing_that_walks_the_model_meets_the_teacher():
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


def test_the_teacher_follows_the_images_and_not_a_copy():
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
    """A ResNet-18 that gives the last of ``stages``, taught by logits alone."""
    student = dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=18, num_stages=4, out_indices=stages),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=4, in_channels=64 * 2 ** stages[-1], loss=dict(type='CrossEntropyLoss')),
    )
    only_logits = {name: loss if name == 'loss_kd' else None for name, loss in distiller_config().losses.items()}
    return distiller_config(student=dict(model=student, taps=dict(logits='head')), views=None, losses=only_logits)


def test_the_dry_run_leaves_running_statistics_and_memories_alone():
    model = MODELS.build(cnn_student(3))
    means = [value for name, value in model.student.named_buffers() if name.endswith('running_mean')]
    assert means
    assert all((mean == 0).all() for mean in means)
    remembering = build_distiller(losses__loss_rrd=dict(type='RRDLoss', on='tokens', queue_size=8))
    assert remembering.distill.losses.loss_rrd.num_enqueued == 0
    remembering(images(), labels(), mode='loss')
    assert remembering.distill.losses.loss_rrd.num_enqueued == 4


def test_parameters_that_no_loss_reaches_are_told(told):
    MODELS.build(cnn_student(2))
    (message,) = [message for message in told if 'No loss reaches' in message]
    assert 'backbone.layer4.0.conv1.weight' in message
    assert 'backbone.layer3' not in message


def test_parameters_that_are_read_in_training_alone_are_not_told_of(told):
    # LeViT's attention biases are cached while it is evaluated.
    config = distiller_config(
        student=dict(model='levit-128s_3rdparty_in1k', taps=dict(patches='backbone.stages[0]', logits='head.head_dist')),
        teacher__model='deit-tiny_4xb256_in1k',
    )
    config.data_preprocessor = None  # the zoo's own
    MODELS.build(config)
    assert not [message for message in told if 'No loss reaches' in message]


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


def test_a_loss_of_none_is_left_out_and_an_unread_view_is_not_computed():
    model = build_distiller(losses__loss_feat=None)
    assert list(model(images(), labels(), mode='loss')) == ['loss_cls', 'loss_kd', 'loss_rd', 'loss_ra']
    assert list(model.distill.views) == ['superpixels']
    assert not [name for name in model.state_dict() if name.startswith('distill.')]


def test_each_view_and_the_teacher_run_once_a_step():
    model = build_distiller()
    calls = []
    for name, module in {
        'teacher': model.teacher.model.backbone,
        'student superpixels': model.distill.views['superpixels'].student.merger,
        'teacher superpixels': model.distill.views['superpixels'].teacher.merger,
    }.items():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    model(images(), labels(), mode='loss')
    assert sorted(calls) == ['student superpixels', 'teacher', 'teacher superpixels']


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


def test_another_image_size_than_the_dry_run_s():
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


def test_students_and_teachers_by_config_file_and_zoo_name():
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


def test_the_zoo_s_own_config_is_left_alone():
    name = 'deit-tiny-distilled_3rdparty_in1k'
    MODELS.build(distiller_config(teacher=None, student__model=name))
    assert ModelHub.get(name).config.model.head.type == 'DeiTClsHead'


def test_the_training_s_preprocessor_goes_before_the_one_beside_a_zoo_student():
    student = 'mmpretrain::deit/deit-tiny-distilled_4xb256_in1k.py'
    ours = dict(num_classes=1000, mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0])
    for given, mean in ((ours, [1.0, 2.0, 3.0]), (None, [123.675, 116.28, 103.53])):
        model = MODELS.build(distiller_config(teacher=None, student__model=student, data_preprocessor=given))
        torch.testing.assert_close(model.data_preprocessor.mean.flatten(), torch.tensor(mean))


def test_a_resolution_and_width_of_one_s_own():
    teacher = copy.deepcopy(TEACHER)
    teacher['backbone']['arch']['embed_dims'] = 16
    model = build_distiller(teacher__model=dict(teacher, head=dict(teacher['head'], in_channels=16)))
    assert model.distill.losses.loss_feat.projector.weight.shape == (16, 16)
