"""Checkpoints of serkd-mm 0.1, which has other names below ``distill.``, load into the present model with equal values."""

import re

import pytest
import torch
from builders import (
    build_distiller,
    cnn_distiller_config,
    distiller_config,
    images,
    labels,
    one_view_per_tap,
    training_config,
)
from mmengine.model import ExponentialMovingAverage
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.registry import MODELS

from serkd_mm.config_errors import ConfigError

CONV = dict(type='ConvTokenizer', grid=8)


def vit_config():
    """One tap: a projector, the queue and the linear layers of RRD, and a refiner."""
    rrd = dict(type='RRDLoss', on='tokens', queue_size=10)
    return distiller_config(losses__loss_rrd=rrd, views__superpixels__refiner=dict(type='SuperpixelRefiner'))


def cnn_config():
    """Three taps a view, and a loss that reads a tap. Configs of 0.1 had a view per stage, and a loss on each view."""
    rrd = dict(type='RRDLoss', on='pooled', queue_size=10)
    return cnn_distiller_config(losses__loss_sekd=dict(type='ChannelGraphLoss', on='tokens'), losses__loss_rrd=rrd)


def cnn_config_of_0_1():
    """The same pair by a config that has a view per stage, as in 0.1."""
    return one_view_per_tap(cnn_config())


def learned_config():
    """The CNN pair with learned tokenizers."""
    return cnn_distiller_config(views__tokens__tokenizer=CONV, views__superpixels__tokenizer=CONV)


# By config: the present names as patterns, the names of 0.1, and one of these in full, as 0.1 saved it.
CASES = {
    vit_config: (
        [(r'(losses\.\w+)\.patches\.', r'\1.'), (r'(views\.\w+)\.refiners\.patches\.', r'\1.student.refiner.')],
        ['losses.loss_feat.projector.weight', 'losses.loss_rrd.queue', 'views.superpixels.student.refiner.network.0.weight'],
    ),
    cnn_config: (
        [
            (r'(losses\.\w+)\.(stage\d)\.', r'\1_\2.'),
            (r'(losses\.\w+)\.pooled\.', r'\1.'),
            (r'(views\.\w+)\.refiners\.(stage\d)\.', r'\1_\2.student.refiner.'),
        ],
        [
            'losses.loss_feat_stage1.projector.weight',
            'losses.loss_rrd.num_enqueued',
            'losses.loss_sekd_stage3.projector.bias',
            'views.superpixels_stage2.student.refiner.network.1.bias',
        ],
    ),
    cnn_config_of_0_1: (
        [
            (r'(losses\.\w+_stage\d)\.stage\d\.', r'\1.'),
            (r'(losses\.\w+)\.pooled\.', r'\1.'),
            (r'(views\.\w+)\.refiners\.stage\d\.', r'\1.student.refiner.'),
        ],
        ['losses.loss_feat_stage1.projector.weight', 'views.superpixels_stage2.student.refiner.network.1.bias'],
    ),
}


def names_of_0_1(state_dict, config):
    """Rename the entries of a present state dict of ``config`` as 0.1 named them."""
    renamed = {}
    for name, value in state_dict.items():
        old = name
        for pattern, replacement in CASES[config][0]:
            old = re.sub(pattern, replacement, old)
        renamed[old] = value
    return renamed


def train(config):
    """A distiller whose weights and queues differ from those of a new one."""
    model = build_distiller(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for seed in (1, 2):
        sum(model(images(seed=seed), labels(), mode='loss').values()).backward()
        optimizer.step()
    return model


def new_model(config):
    """A distiller with the same teacher and other weights."""
    model = build_distiller(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1)
    return model


def torch_load(model, state_dict):
    model.load_state_dict(state_dict)


def mmengine_load(model, state_dict):
    load_state_dict(model, state_dict, strict=True)


def ema_load(model, state_dict):
    averaged = ExponentialMovingAverage(model)
    wrapped = {f'module.{name}': value for name, value in state_dict.items()}
    load_state_dict(averaged, dict(wrapped, steps=torch.tensor(7)), strict=True)
    model.load_state_dict(averaged.module.state_dict())


@pytest.mark.parametrize('load', [torch_load, mmengine_load, ema_load])
@pytest.mark.parametrize('config', CASES)
def test_a_state_dict_of_0_1_loads_with_equal_values(config, load):
    source, target = train(config), new_model(config)
    expected = source.state_dict()
    old = names_of_0_1(expected, config)
    assert {f'distill.{name}' for name in CASES[config][1]} <= set(old)
    assert not {name for name in expected if name.startswith('distill.')} & set(old)
    load(target, old)
    actual = target.state_dict()
    assert actual.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(actual[name], value)] == []
    losses = target(images(), labels(), mode='loss')
    for name, value in source(images(), labels(), mode='loss').items():
        assert torch.equal(losses[name], value), name


def test_parameters_are_in_the_order_of_0_1():
    # An optimizer saves its state by the index of the parameter.
    several, single = (
        list(names_of_0_1(dict(build_distiller(config).named_parameters()), config))
        for config in (cnn_config, cnn_config_of_0_1)
    )
    assert several == single
    names = [name for name in single if name.startswith('distill.')]
    assert [names.index(f'distill.losses.loss_feat_stage{stage}.projector.weight') for stage in (1, 2, 3)] == [0, 2, 4]
    assert names[-1] == 'distill.views.superpixels_stage3.student.refiner.network.1.bias'


@pytest.mark.parametrize('config', [vit_config, cnn_config, cnn_config_of_0_1, learned_config])
def test_a_present_state_dict_loads_as_it_is(config):
    source, target = train(config).state_dict(), new_model(config)
    assert target.load_state_dict(source) == ([], [])
    assert [name for name, value in source.items() if not torch.equal(target.state_dict()[name], value)] == []


@pytest.mark.usefixtures('runner_scope')
@pytest.mark.parametrize('config', [vit_config, pytest.param(cnn_config, marks=pytest.mark.slow)])
def test_resuming_from_a_checkpoint_of_0_1_is_bit_exact(config, image_root, tmp_path):
    def run(work_dir, **changes):
        settings = training_config(image_root, tmp_path / work_dir, model=dict(_delete_=True, **config()), **changes)
        settings.custom_hooks = [*settings.custom_hooks, dict(type='EMAHook', momentum=0.5)]
        Runner.from_cfg(settings).train()

    run('whole')
    run('parts', **{'train_cfg.max_epochs': 1})
    path = tmp_path / 'parts' / 'epoch_1.pth'
    checkpoint = torch.load(path, weights_only=True)
    for part in ('state_dict', 'ema_state_dict'):
        renamed = names_of_0_1(checkpoint[part], config)
        assert len(set(renamed) - set(checkpoint[part])) > 2
        checkpoint[part] = renamed
    torch.save(checkpoint, path)
    run('parts', resume=True)

    expected, actual = (torch.load(tmp_path / name / 'epoch_2.pth', weights_only=True) for name in ('whole', 'parts'))
    for part in ('state_dict', 'ema_state_dict'):
        assert actual[part].keys() == expected[part].keys()
        assert [name for name, value in expected[part].items() if not torch.equal(actual[part][name], value)] == []
    trained, averaged = expected['ema_state_dict'], expected['state_dict']  # mmengine's hook saves them swapped.
    names = [name for name in averaged if name.startswith('distill.') and averaged[name].is_floating_point()]
    assert any(not torch.equal(averaged[name], trained[f'module.{name}']) for name in names)
    assert actual['optimizer']['state'].keys() == expected['optimizer']['state'].keys()
    for index, state in expected['optimizer']['state'].items():
        assert all(torch.equal(actual['optimizer']['state'][index][name], value) for name, value in state.items())


@pytest.fixture(scope='module')
def learned():
    """A trained model with learned tokenizers, and its state dict as 0.1 saved it: a tokenizer per view, tap and side."""
    model = train(learned_config)
    old = names_of_0_1(model.state_dict(), cnn_config)
    for name, value in model.distill.tokenizers.state_dict().items():
        del old[f'distill.tokenizers.{name}']
        stage, _, layer = name.split('.', 2)
        for view in ('tokens', 'superpixels'):
            for side in ('student', 'teacher'):
                old[f'distill.views.{view}_{stage}.{side}.tokenizer.{layer}'] = value
    assert 'distill.views.tokens_stage1.teacher.tokenizer.conv.weight' in old
    return model.eval(), old


@pytest.mark.parametrize('load', [torch_load, mmengine_load, ema_load])
def test_training_from_learned_tokenizers_of_0_1_is_refused_with_the_reason(learned, load):
    source, old = learned
    model = new_model(learned_config)
    with pytest.raises(ConfigError, match=r'serkd-mm 0\.1 with learned tokenizers, one for each view.*distill\.views\.'):
        load(model, old)
    # The message also describes how to start a new training from the student: without these entries.
    missing, unexpected = model.load_state_dict(
        {name: value for name, value in old.items() if not name.startswith('distill.')}, strict=False
    )
    assert unexpected == []
    assert all(name.startswith('distill.') for name in missing)
    assert torch.equal(model.eval()(images()), source(images()))


@pytest.mark.parametrize('load', [torch_load, mmengine_load, ema_load])
def test_a_checkpoint_of_0_1_with_learned_tokenizers_evaluates(learned, load):
    source, old = learned
    model = MODELS.build({**learned_config(), 'teacher': None}).eval()
    load(model, old)
    assert torch.equal(model(images()), source(images()))


@pytest.mark.parametrize('load', [torch_load, mmengine_load, ema_load])
def test_learned_tokenizers_of_0_1_are_ignored_if_no_tokenizer_learns(learned, load):
    source, old = learned
    model = new_model(cnn_distiller_config)
    load(model, old)
    assert torch.equal(model.eval()(images()), source(images()))
