"""Names that a run would ignore, and values that it cannot use, are reported before anything is built."""

import re

import pytest
from builders import CONFIGS, training_config
from mmengine.config import Config

from serkd_mm.config_errors import ConfigError
from serkd_mm.runner import check_config


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    """A config that inherits from another one."""
    root = tmp_path_factory.mktemp('config')
    training_config(root / 'images', root / 'work').dump(root / 'base.py')
    (root / 'config.py').write_text("_base_ = './base.py'\n")
    return root / 'config.py'


@pytest.fixture(scope='module')
def before(file):
    return Config.fromfile(file)


def check(before, options):
    config = Config.fromfile(before.filename)
    config.merge_from_dict(options)
    check_config(config, before, options)


MISTAKES = {
    # setting of the command line: name and value; what the message says
    'modle.x': (1, "modle is not a setting of a run and would be ignored. Did you mean 'model'?"),
    'optimizer.lr': (0.1, "Did you mean 'optim_wrapper'?"),
    'train_dataloder.batch_size': (2, "Did you mean 'train_dataloader'?"),
    'custom_hook': ([], "Did you mean 'custom_hooks'?"),
    'load_form': ('x.pth', "Did you mean 'load_from'?"),
    'model.losses.loss_fet': (
        None,
        "model.losses.loss_fet=None removes nothing: there is no such entry. Did you mean 'loss_f",
    ),
    'model.views.superpixel': (None, 'model.views.superpixel=None removes nothing'),
    'default_hooks.checkpont.interval': (2, "default_hooks.checkpont has no 'type'"),
    'default_hooks.checkpoint.intervall': (
        2,
        "default_hooks.checkpoint.intervall is not a setting. Did you mean 'interval'",
    ),
    'train_cfg.max_epoch': (3, "train_cfg.max_epoch is not a setting. Did you mean 'max_epochs'"),
    'train_dataloader.batchsize': (3, "train_dataloader.batchsize is not a setting. Did you mean 'batch_size'"),
    'optim_wrapper.clip_gard': (dict(max_norm=1), "optim_wrapper.clip_gard is not a setting. Did you mean 'clip_grad'"),
    'optim_wrapper.optimizer.lrr': (1, 'optim_wrapper.optimizer.lrr is not a setting'),
    'optim_wrapper.optimizer.type': ('AdmW', "optim_wrapper.optimizer.type='AdmW' is not registered. Did you mean 'AdamW'"),
    'param_scheduler.0.star_factor': (1, 'param_scheduler[0].star_factor is not a setting'),
    'custom_hooks.0.type': ('PlainChekpointHook', "Did you mean 'PlainCheckpointHook'"),
    'randomness.sed': (1, "randomness.sed is not a setting. Did you mean 'seed'"),
    'optim_wrapper.optimizer.lr': (
        'abc',
        "optim_wrapper.optimizer.lr must be a finite number that is not negative, but is 'ab",
    ),
    'optim_wrapper.optimizer.weight_decay': (-1, 'optim_wrapper.optimizer.weight_decay'),
    'optim_wrapper.optimizer': (
        dict(_delete_=True, type='SGD', lr=0.1),
        'optim_wrapper.paramwise_cfg multiplies the weight decay, but optim_wrapper.optimizer.weight_decay is not set',
    ),
    'train_cfg.max_epochs': (0, 'train_cfg.max_epochs must be a whole number, 1 or more, but is 0'),
    'train_cfg.val_interval': (0.5, 'train_cfg.val_interval'),
    'train_dataloader.batch_size': ('abc', 'train_dataloader.batch_size'),
    'val_dataloader.num_workers': (-1, 'val_dataloader.num_workers must be a whole number, 0 or more'),
    'randomness.seed': ('abc', 'randomness.seed must be a whole number'),
    'custom_hooks': ('EMAHook', 'custom_hooks must be a list of dicts with a type'),
    'optim_wrapper.accumulative_counts': (True, 'optim_wrapper.accumulative_counts'),
}


@pytest.mark.parametrize('name', MISTAKES)
def test_mistake_on_the_command_line_is_reported_by_its_key(name, before):
    value, message = MISTAKES[name]
    with pytest.raises(ConfigError, match=re.escape(message)):
        check(before, {name: value})


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'model.losses.loss_feat': None, 'default_hooks.logger': None, 'model.views.tokens': None},
        {'my_setting': 1, 'resume': True, 'find_unused_parameters': True, 'compile': False, 'custom_imports.imports': []},
        {
            'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=10, val_interval=5),
            'default_hooks.checkpoint.greater_keys': ['x'],
        },
        {'optim_wrapper.clip_grad': dict(max_norm=float('inf'))},  # Logs the norm of the gradient.
        {'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.dtype': 'bfloat16', 'optim_wrapper.optimizer.lr': 0},
    ],
)
def test_valid_settings_pass(options, before):
    check(before, options)


def test_mistakes_in_files_are_reported_and_variables_are_not(file):
    child = file.with_name('child.py')
    base = "_base_ = './config.py'\n"
    for mistake, message in {
        'modle = dict(x=1)': "Did you mean 'model'",
        'model = dict(losses=dict(loss_fet=None))': 'loss_fet=None removes nothing',
        'model = dict(losses=dict(loss_ra_stage1=None))': 'loss_ra_stage1=None removes nothing',
    }.items():
        child.write_text(base + mistake)
        with pytest.raises(ConfigError, match=message):
            check(Config.fromfile(child), {})
    child.write_text(
        base + 'bs = 2\nimg_size = 32\nmode = "train"\nmodels = ["a"]\n'
        'model = dict(losses=dict(loss_ra=None))\ntrain_dataloader = dict(batch_size=bs, num_workers=len(models))\n'
    )
    check(Config.fromfile(child), {})
    config = Config.fromfile(child)
    config.dump(file.with_name('dumped.py'))  # As a run stores it in its work folder.
    check(Config.fromfile(file.with_name('dumped.py')), {})


def test_configs_of_the_repository_pass():
    for name in (
        'serkd/resnet18_resnet101.py',
        'serkd/ablations/deit-ti_mae-b_no-angle.py',
        'transfer/deit-s_serkd_cars.py',
    ):
        check(Config.fromfile(CONFIGS / name), {})


def test_a_schedule_that_no_hook_moves_is_reported(before):
    options = {'model.losses.loss_rd.loss_weight': dict(_delete_=True, type='Linear', begin=1.0, end=0.0)}
    check(before, options)
    with pytest.raises(ConfigError, match=r'^model\.losses\.loss_rd\.loss_weight is a schedule, and nothing moves it: add'):
        check(before, {**options, 'custom_hooks': []})
