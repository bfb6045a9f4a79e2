"""The configs of the methods that SeRKD is compared with have the settings of their authors."""

from functools import cache
from pathlib import Path

import pytest
from builders import CONFIGS
from mmengine.config import Config
from mmpretrain.registry import HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from serkd_mm.distillers.taps import expand_path
from serkd_mm.model_sources import find_model

PAIRS = ('deit-ti_mae-b', 'resnet18_resnet101')
LOGITS = {
    'dist': dict(type='DISTLoss', on='logits', beta=1.0, gamma=1.0, tau=1.0, loss_weight=2.0),  # resnet_dist.yaml
    'dkd': dict(type='DKDLoss', on='logits', alpha=1.0, beta=0.5, tau=1.0),
    'nkd': dict(type='NKDLoss', on='logits', gamma=1.5, tau=1.0),
}


@cache
def read(name):
    """Return a config by its name; not to be changed."""
    return Config.fromfile(CONFIGS / 'serkd' / f'{name}.py')


def losses_of(config):
    """Return the losses of a config that it does not remove, by name."""
    return {name: dict(loss) for name, loss in config.model.losses.items() if loss is not None}


@pytest.mark.parametrize('pair', PAIRS)
@pytest.mark.parametrize('method', LOGITS)
def test_losses_between_logits_replace_kd(pair, method):
    config = read(f'{pair}_{method}')
    assert losses_of(config) == {f'loss_{method}': LOGITS[method]}
    assert config.model.teacher == read(f'{pair}_kd').model.teacher


def test_kd_at_tau_4_and_both_readings_of_rrd():
    kd = dict(type='LogitKLLoss', on='logits', tau=4.0, loss_weight=1.0)
    # DIST's resnet_kdt4.yaml.
    assert losses_of(read('resnet18_resnet101_kd-tau4')) == dict(loss_cls=dict(loss_weight=0.9), loss_kd=kd)
    for pair, on in zip(PAIRS, ('tokens', 'pooled'), strict=True):
        for name, student, teacher in (('rrd', 0.02, 0.1), ('rrd-swapped', 0.1, 0.02)):
            rrd = dict(type='RRDLoss', on=on, tau_student=student, tau_teacher=teacher)
            assert losses_of(read(f'{pair}_{name}')) == dict(loss_kd=kd, loss_rrd=rrd), name


@pytest.mark.parametrize('name', ['deit-ti_mae-b', 'resnet18_resnet101', 'deit-ti_regnety-16gf', 'deit-s_regnety-16gf'])
def test_cskd_is_half_of_labels_half_of_the_teacher_s_class_and_dense_logits(name):
    config = read(f'{name}_cskd')
    assert losses_of(config) == dict(
        loss_cls=dict(loss_weight=0.5),
        loss_kd=dict(type='HardLabelLoss', on='logits', loss_weight=0.5),
        loss_dense=dict(type='DenseLogitsLoss', on='dense', ratio=dict(type='Linear', begin=1.0, end=0.0)),
    )
    assert '|' in config.model.student.taps.dense_logits
    assert '|' in config.model.teacher.taps.dense_logits
    if 'regnety' in name:
        assert config.model.teacher.model == 'timm:regnety_160.deit_in1k'
        assert config.model.views.dense.merger == dict(type='AvgPoolMerger', grid=7)


def test_vitkd_has_the_weights_of_its_authors():
    for name, gamma in (
        ('deit-ti_deit3-s_nkd-vitkd', 1.0),
        ('deit-s_deit3-b_nkd-vitkd', 1.0),
        ('deit-ti_mae-b_vitkd', None),
    ):
        config = read(name)
        losses = losses_of(config)
        early = config.model.views[losses['loss_mimic']['on']]
        assert [config.model.student.taps[tap] for tap in early.taps] == ['backbone.layers[0]', 'backbone.layers[1]']
        # A loss on a view of two taps is their mean, and the authors' is the sum.
        assert losses['loss_mimic'] == dict(type='ViTKDMimickingLoss', on='early', loss_weight=2 * 3e-5)
        assert losses['loss_generate'] == dict(type='ViTKDGenerationLoss', on='tokens', loss_weight=3e-6)
        assert losses.get('loss_nkd', {}).get('gamma') == gamma
        assert ('loss_kd' in losses) == (gamma is None)
    for name, student, teacher in (('ti_deit3-s', 'deit-tiny', 'deit3-small'), ('s_deit3-b', 'deit-small', 'deit3-base')):
        config = read(f'deit-{name}_nkd-vitkd')
        backbone = config.model.student.model.backbone
        assert (backbone.type, backbone.arch) == ('VisionTransformer', student)
        assert config.model.teacher.model == f'{teacher}-p16_in21k-pre_3rdparty_in1k'
        assert config.model.student.taps.patches == config.model.teacher.taps.patches == 'backbone.ln1'


@pytest.mark.parametrize('name', ['deit-ti_mae-b', 'vit-s_dinov2-b'])
def test_leap_moves_the_tap_of_its_loss_as_its_authors_do(name):
    config = read(f'{name}_leap')
    hooks = [hook for hook in config.custom_hooks if hook.type == 'TapCurriculumHook']
    assert [(hook.tap, hook.loss, hook.threshold, hook.max_epochs) for hook in hooks] == [('patches', 'loss_feat', 0.8, 5)]
    assert config.custom_hooks[:-1] == read('deit-ti_mae-b').custom_hooks
    losses = losses_of(config)
    assert 'loss_kd' not in losses, 'the teacher does not run to its head'
    assert losses['loss_feat']['loss_weight'] == 1.0
    views = config.model.views
    assert {view.tap for view in views.values()} == {'patches'}
    if name == 'vit-s_dinov2-b':
        assert config.model.losses.loss_cls is None
        assert losses['loss_token']['loss_weight'] == 0.05
        assert views[losses['loss_token']['on']].tokenizer.type == 'ClassTokenizer'
        assert config.train_cfg.max_epochs == config.param_scheduler[-1].end == 100
    else:
        assert not config.model.student.model.head.distilled_training


@pytest.mark.parametrize('pair', PAIRS)
def test_patient_teacher_has_no_labels_and_mixes_all_images_for_long(pair):
    config = read(f'{pair}_patient')
    assert config.model.losses.loss_cls is None
    assert losses_of(config) == dict(loss_kd=dict(type='LogitKLLoss', on='logits', tau=1.0, loss_weight=1.0))
    student = config.model.student.model
    assert student.train_cfg.augments == [dict(type='Mixup', alpha=1.0)]
    assert student.backbone.type in ('VisionTransformer', 'ResNet'), 'one head'
    cosine = config.param_scheduler[-1]
    assert config.train_cfg.max_epochs == cosine.end == cosine.begin + cosine.T_max == 1200
    assert cosine.type == 'CosineAnnealingLR'


def test_g2sd_has_the_second_stage_of_its_authors():
    config = read('deit-s_mae-b_g2sd')
    assert losses_of(config) == dict(
        loss_cls=dict(loss_weight=0.5), loss_kd=dict(type='HardLabelLoss', on='logits', loss_weight=0.5)
    )
    assert config.model.student.model.backbone.arch == 'deit-small'
    assert config.model.student.checkpoint
    assert config.train_cfg.max_epochs == config.param_scheduler[-1].end == 200
    wrapper, batch = config.optim_wrapper, config.auto_scale_lr.base_batch_size
    assert wrapper.optimizer.lr * 256 / batch == 1e-3
    assert wrapper.paramwise_cfg.layer_decay_rate == 0.75
    assert wrapper.optimizer.weight_decay == 0.05
    assert wrapper.clip_grad is None
    erasing = [step for step in config.train_dataloader.dataset.pipeline if step.type == 'RandomErasing']
    assert [step.erase_prob for step in erasing] == [0.25]
    mixing = {augment.type: augment.alpha for augment in config.model.student.model.train_cfg.augments}
    assert mixing == dict(Mixup=0.8, CutMix=1.0)
    model = MODELS.build({**config.model, 'teacher': None})
    constructor = dict(
        type=wrapper.constructor,
        optim_wrapper_cfg=dict(type='OptimWrapper', optimizer=wrapper.optimizer),
        paramwise_cfg=wrapper.paramwise_cfg,
    )
    optimizer = OPTIM_WRAPPER_CONSTRUCTORS.build(constructor)(model).optimizer
    groups = {group['param_name']: group for group in optimizer.param_groups}
    rates = [groups[f'student.{name}']['lr'] for name in ('head.layers.head.weight', 'backbone.layers.11.ln1.bias')]
    assert rates == pytest.approx([4e-3, 4e-3 * 0.75])
    first, token = groups['student.backbone.patch_embed.projection.weight'], groups['student.backbone.cls_token']
    assert first['lr'] == token['lr'] == pytest.approx(4e-3 * 0.75**13)
    assert (first['weight_decay'], token['weight_decay']) == (0.05, 0.0)


def test_cskd_is_fine_tuned_as_serkd_is():
    for path in (CONFIGS / 'transfer').glob('*_cskd_*.py'):
        config, serkd = Config.fromfile(path), Config.fromfile(path.with_name(path.name.replace('cskd', 'serkd')))
        checkpoint = config.model.backbone.init_cfg.pop('checkpoint')
        serkd.model.backbone.init_cfg.pop('checkpoint')
        assert config.to_dict() == serkd.to_dict()
        student = path.stem.split('_')[0]
        assert (CONFIGS / 'serkd' / f'{Path(checkpoint).parent.name}.py').is_file()
        assert Path(checkpoint).parent.name == f'{student}_regnety-16gf_cskd'


@pytest.mark.parametrize(('name', 'arch'), [('deit-ti_mae-b', 'deit-tiny'), ('vit-s_dinov2-b', 'dinov2-small')])
def test_leap_s_tap_starts_at_a_block_of_its_curriculum(name, arch):
    config = read(f'{name}_leap')
    (settings,) = [hook for hook in config.custom_hooks if hook.type == 'TapCurriculumHook']
    HOOKS.build(settings)
    backbone = find_model(config.model.teacher.model, 'teacher').config.backbone
    teacher = nn.ModuleDict(dict(backbone=MODELS.build({**backbone, 'arch': arch, 'init_cfg': None})))
    paths = expand_path(teacher, settings.paths, 'paths')
    assert len(paths) == 12
    assert config.model.teacher.taps[settings.tap] == paths[0]
    assert settings.loss in losses_of(config)
