"""Checkpoints are those of the plain student plus ``distill.*``."""

import copy

import torch
from builders import STUDENT, build_distiller, distiller_config, images
from mmengine.runner.checkpoint import get_state_dict, load_state_dict
from mmpretrain.registry import MODELS


def plain_student():
    head = dict(STUDENT['head'], type='DeiTClsHead')
    return MODELS.build(dict(copy.deepcopy(STUDENT), head=head))


def test_names_and_values_are_the_plain_student_s():
    model = build_distiller()
    for state_dict in (model.state_dict(), get_state_dict(model)):
        names = [name for name in state_dict if not name.startswith('distill.')]
        assert names == list(plain_student().state_dict())
        extra = set(state_dict) - set(names)
        assert extra == {f'distill.losses.loss_feat.patches.projector.{part}' for part in ('weight', 'bias')}
        assert all(
            torch.equal(value, model.student.state_dict()[name]) for name, value in state_dict.items() if name in names
        )


def test_mmpretrain_s_own_model_loads_them_and_predicts_the_same():
    model, plain = build_distiller().eval(), plain_student().eval()
    missing, unexpected = plain.load_state_dict(model.state_dict(), strict=False)
    assert missing == []
    assert all(name.startswith('distill.') for name in unexpected)
    assert torch.equal(plain(images()), model(images()))


def test_round_trip_by_torch_and_by_mmengine():
    source = build_distiller()
    for load in (
        lambda model, state: model.load_state_dict(state),
        lambda model, state: load_state_dict(model, state, True),
    ):
        torch.manual_seed(99)
        target = MODELS.build(distiller_config())
        target.init_weights()
        assert not torch.equal(target.head.layers.head.weight, source.head.layers.head.weight)
        load(target, source.state_dict())
        assert all(torch.equal(value, target.state_dict()[name]) for name, value in source.state_dict().items())


def test_versions_of_modules_are_named_as_their_weights_are():
    for state_dict in (build_distiller().state_dict(), get_state_dict(build_distiller())):
        assert 'backbone.layers.0' in state_dict._metadata
        assert not [name for name in state_dict._metadata if name.startswith('student.')]


def test_inside_a_wrapper_the_prefix_is_kept():
    wrapper = torch.nn.Sequential(build_distiller())
    names = list(wrapper.state_dict())
    assert '0.backbone.cls_token' in names
    assert not any('student.' in name for name in names)
    wrapper.load_state_dict(wrapper.state_dict())


def test_a_plain_student_s_checkpoint_loads():
    plain = plain_student()
    model = build_distiller()
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    assert all(name.startswith('distill.') for name in missing)
    assert torch.equal(model.backbone.pos_embed, plain.backbone.pos_embed)


def test_a_model_for_evaluation_ignores_distill():
    source = build_distiller().eval()
    model = MODELS.build(distiller_config(teacher=None)).eval()
    assert model.teacher is None
    assert model.load_state_dict(source.state_dict()) == ([], [])
    assert torch.equal(model(images()), source(images()))


def test_evaluation_needs_neither_a_teacher_nor_taps_views_or_losses():
    config = distiller_config(teacher=None, student__taps=None, views=None, losses=None)
    MODELS.build(config).eval()(images())


def test_position_embeddings_of_another_size_are_resized_as_in_mmpretrain():
    model = build_distiller()
    state_dict = model.state_dict()
    state_dict['backbone.pos_embed'] = torch.randn(1, 2 + 64, 16)
    model.load_state_dict(state_dict)
    assert model.backbone.pos_embed.shape == (1, 2 + 16, 16)
