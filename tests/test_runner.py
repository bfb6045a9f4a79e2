"""Complete trainings with mmengine's Runner on image files."""

import pytest
import torch
from builders import training_config
from mmengine.config import Config
from mmengine.runner import Runner

pytestmark = pytest.mark.usefixtures('runner_scope')


def run(config: Config) -> Runner:
    """Build a runner as mmpretrain's tools do, and train."""
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def load(path):
    return torch.load(path, map_location='cpu', weights_only=True)


def assert_equal_states(actual, expected):
    assert actual.keys() == expected.keys()
    different = [name for name, value in expected.items() if not torch.equal(actual[name], value)]
    assert different == []


def test_trains_logs_evaluates_and_saves_the_plain_student(image_root, tmp_path):
    runner = run(training_config(image_root, tmp_path))
    history = runner.message_hub.log_scalars
    for name in ('loss', 'loss_cls', 'loss_kd', 'loss_feat', 'loss_rd', 'loss_ra'):
        assert len(history[f'train/{name}'].data[0]) == 6, name
    assert 'accuracy/top1' in ''.join(history)
    names = load(tmp_path / 'epoch_2.pth')['state_dict']
    assert not [name for name in names if name.startswith(('student.', 'teacher.'))]
    assert {name.split('.')[0] for name in names} == {'backbone', 'head', 'distill'}


def test_optimizer_holds_student_and_projector_and_decays_only_weights(image_root, tmp_path):
    runner = Runner.from_cfg(training_config(image_root, tmp_path))
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    groups = [group for group in wrapper.param_groups if group['params'][0].ndim]  # mmengine adds a scalar
    decays = {id(group['params'][0]): group['weight_decay'] for group in groups}
    assert decays.keys() == {id(weight) for weight in runner.model.parameters()}
    named = {name: decays[id(weight)] for name, weight in runner.model.named_parameters()}
    kept = {name for name, decay in named.items() if decay == 0.05}
    assert kept == {
        name
        for name, weight in runner.model.named_parameters()
        if weight.ndim >= 2 and not name.endswith(('cls_token', 'dist_token', 'pos_embed'))
    }
    assert all(decay == 0 for name, decay in named.items() if name not in kept)


# RRD with a queue that wraps around within an epoch of 12 images, and again after resuming.
RRD = {'model.losses.loss_rrd': dict(type='RRDLoss', on='tokens', queue_size=10)}


WORKERS = {'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True}


@pytest.mark.parametrize(
    'settings',
    [
        pytest.param({}, id='serkd'),
        pytest.param(WORKERS, id='workers', marks=pytest.mark.slow),
        pytest.param(RRD, id='rrd', marks=pytest.mark.slow),
    ],
)
def test_resuming_is_bit_exact(settings, image_root, tmp_path):
    # With random crops and flips, Mixup and CutMix, stochastic depth and validation between the epochs.
    changes = {
        **settings,
        'model.student.model.train_cfg': dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
        'model.student.model.backbone.drop_path_rate': 0.1,
    }
    whole = run(training_config(image_root, tmp_path / 'whole', **changes))
    run(training_config(image_root, tmp_path / 'parts', **changes, **{'train_cfg.max_epochs': 1}))
    parts = run(training_config(image_root, tmp_path / 'parts', **changes, resume=True))
    assert parts.iter == whole.iter == 6
    expected, actual = (load(tmp_path / name / 'epoch_2.pth') for name in ('whole', 'parts'))
    assert_equal_states(actual['state_dict'], expected['state_dict'])
    assert ('distill.losses.loss_rrd.patches.queue' in expected['state_dict']) == (settings is RRD)
    for index, state in expected['optimizer']['state'].items():
        assert_equal_states(actual['optimizer']['state'][index], state)
    logs = (c['message_hub']['log_scalars']['train/loss']['log_history'] for c in (expected, actual))
    assert torch.equal(*logs)


def test_ema_averages_the_student_and_shares_the_teacher(image_root, tmp_path):
    ema = dict(type='EMAHook', momentum=0.5)
    config = training_config(image_root, tmp_path)
    config.custom_hooks = [*config.custom_hooks, ema]
    runner = run(config)
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook')
    assert hook.ema_model.module.teacher is runner.model.teacher
    checkpoint = load(tmp_path / 'epoch_2.pth')
    assert not any('student.' in name or 'teacher' in name for name in checkpoint['ema_state_dict'])
    averaged, trained = checkpoint['state_dict'], runner.model.state_dict()
    assert averaged.keys() == trained.keys()
    assert not torch.equal(averaged['backbone.layers.0.attn.qkv.weight'], trained['backbone.layers.0.attn.qkv.weight'])
    resumed = training_config(image_root, tmp_path, resume=True, **{'train_cfg.max_epochs': 3})
    resumed.custom_hooks = config.custom_hooks
    assert run(resumed).iter == 9


@pytest.mark.parametrize('wrapper', ['OptimWrapper', 'AutocastOptimWrapper'])
def test_gradient_accumulation_clipping_and_ema(wrapper, image_root, tmp_path):
    config = training_config(image_root, tmp_path, **{'train_cfg.max_epochs': 1})
    config.optim_wrapper.update(type=wrapper, accumulative_counts=2, clip_grad=dict(max_norm=1.0))
    config.custom_hooks.append(dict(type='EMAHook'))
    runner = run(config)
    assert all(weight.isfinite().all() for weight in runner.model.parameters())
    assert 'train/grad_norm' in runner.message_hub.log_scalars


def test_bfloat16_on_cpu(image_root, tmp_path):
    config = training_config(image_root, tmp_path)
    config.optim_wrapper.type = 'AutocastOptimWrapper'
    formats = set()
    runner = Runner.from_cfg(config)
    runner.model.student.backbone.layers[0].attn.qkv.register_forward_hook(
        lambda *args: formats.add((args[0].training, args[2].dtype))
    )
    runner.train()
    assert formats == {(True, torch.bfloat16), (False, torch.float32)}
    assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in runner.model.parameters())
    plain = run(training_config(image_root, tmp_path / 'plain'))
    for name in ('loss', 'loss_cls', 'loss_kd', 'loss_feat', 'loss_rd', 'loss_ra'):
        first, expected = (r.message_hub.log_scalars[f'train/{name}'].data[0][0] for r in (runner, plain))
        assert first == pytest.approx(expected, rel=0.05), name


def test_mmpretrain_layer_wise_learning_rates(image_root, tmp_path):
    config = training_config(image_root, tmp_path)
    config.optim_wrapper = dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.05),
        constructor='LearningRateDecayOptimWrapperConstructor',
        paramwise_cfg=dict(layer_decay_rate=0.5),
    )
    runner = Runner.from_cfg(config)
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    rates = {id(weight): group['lr'] for group in wrapper.param_groups for weight in group['params']}
    named = dict(runner.model.named_parameters())
    rate = {name: rates[id(weight)] for name, weight in named.items()}
    assert rate['student.backbone.layers.0.attn.qkv.weight'] < rate['student.backbone.layers.1.attn.qkv.weight']
    assert rate['student.head.layers.head.weight'] == rate['distill.losses.loss_feat.patches.projector.weight'] == 1.0


def test_wrong_tap_fails_before_training(image_root, tmp_path):
    config = training_config(image_root, tmp_path, **{'model.student.taps.patches': 'backbone.layer[-1]'})
    with pytest.raises(ValueError, match=r'model\.student\.taps\.patches.*layers'):
        Runner.from_cfg(config)
    assert not list(tmp_path.glob('*.pth'))
