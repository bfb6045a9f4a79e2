"""An interrupted training ends as an uninterrupted one: validation, iteration-based loops, accumulation, short histories."""

import json

import pytest
import torch
from builders import training_config, write_images
from checkpoints import assert_equal_files, load
from mmengine.hooks import Hook
from mmengine.runner import Runner

from serkd_mm.config_errors import ConfigError
from serkd_mm.hooks import DataError, ResumeError
from serkd_mm.hooks.iteration_seed_hook import SeededBatches
from serkd_mm.seeding import set_seed

pytestmark = pytest.mark.usefixtures('runner_scope')

MIXED = {
    'model.student.model.train_cfg': {'augments': [{'type': 'Mixup', 'alpha': 0.8}, {'type': 'CutMix', 'alpha': 1.0}]},
    'model.losses.loss_rd': None,
    'model.losses.loss_ra': None,
    'model.losses.loss_cls': {'loss_weight': {'type': 'Cosine', 'begin': 0.2, 'end': 1.0}},
    'model.losses.loss_hard': {
        'type': 'HardLabelLoss',
        'on': 'logits',
        'loss_weight': {'type': 'Linear', 'begin': 1.0, 'end': 0.0, 'until': 0.8},
    },
}
ITERATIONS = {
    **MIXED,
    'train_cfg': {'by_epoch': False, 'max_iters': 8, 'val_interval': 4},
    'train_dataloader.sampler': {'type': 'InfiniteSampler'},
    'param_scheduler': [{'type': 'LinearLR', 'by_epoch': False, 'start_factor': 0.5, 'end': 8}],
    'log_processor': {'by_epoch': False},
    'default_hooks.logger.log_metric_by_epoch': False,
    'default_hooks.checkpoint.by_epoch': False,
    'default_hooks.checkpoint.interval': 4,
}
WORKERS = {'train_dataloader.num_workers': 2, 'train_dataloader.persistent_workers': True}
WITHOUT_VALIDATION = {'val_cfg': None, 'val_dataloader': None, 'val_evaluator': None}


class Killed(Exception):
    """The process ends here."""


class Kill(Hook):
    """Raise in the validation or at the training iteration that is given, before anything else happens there."""

    priority = 'HIGHEST'

    def __init__(self, val=None, train=None):
        self.val, self.train = val, train

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.val and batch_idx == 1:
            raise Killed

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.train:
            raise Killed


def runner_of(root, work_dir, changes):
    kept = ('train_cfg', 'elastic')
    config = training_config(root, work_dir, **{name: value for name, value in changes.items() if name not in kept})
    config.train_cfg = changes.get('train_cfg', config.train_cfg)
    next(hook for hook in config.custom_hooks if hook.type == 'ResumeCheckHook').elastic = changes.get('elastic', False)
    return Runner.from_cfg(config)


def train(root, work_dir, changes, kill=None, **more):
    runner = runner_of(root, work_dir, {**changes, **more})
    if kill is None:
        runner.train()
        return runner
    runner.register_hook(kill)
    with pytest.raises(Killed):
        runner.train()
    return runner


def logged(work_dir):
    """The logged scalars of all starts by kind and step, without times."""
    entries = {}
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            entries['lr' in entry, entry['step']] = {name: value for name, value in entry.items() if 'time' not in name}
    return entries


def latest(folder):
    """The settings of a start that resumes from the last file that the folder names."""
    return {'resume': True, 'load_from': (folder / 'last_checkpoint').read_text()}


@pytest.mark.parametrize(
    ('changes', 'kills'),
    [
        pytest.param(MIXED, [Kill(val=3), Kill(train=4), Kill(val=6)], id='epochs', marks=pytest.mark.slow),
        pytest.param(ITERATIONS, [Kill(val=4), Kill(train=6), Kill(val=8)], id='iterations', marks=pytest.mark.slow),
    ],
)
def test_run_killed_while_it_validates_resumes_with_that_validation(changes, kills, image_root, tmp_path):
    whole = train(image_root, tmp_path / 'whole', changes)
    folder = tmp_path / 'parts'
    for kill in [*kills, None]:
        started = (folder / 'last_checkpoint').exists()
        parts = train(image_root, folder, changes, kill, **(latest(folder) if started else {}))
    assert parts.iter == whole.iter
    weights = [entry['weight_hard'] for (is_train, _), entry in sorted(logged(folder).items()) if is_train]
    assert weights == pytest.approx([max(0, 1 - done / whole.iter / 0.8) for done in range(whole.iter)])
    assert_equal_files(folder, tmp_path / 'whole')
    assert logged(folder) == logged(tmp_path / 'whole')
    assert {step for is_train, step in logged(folder) if not is_train} == ({1, 2} if changes is MIXED else {4, 8})


@pytest.mark.slow
def test_validation_that_the_checkpoint_records_is_not_repeated(image_root, tmp_path):
    train(image_root, tmp_path, MIXED, **{'train_cfg.max_epochs': 1})
    assert load(tmp_path / 'epoch_1.pth')['meta']['validated'] is True  # Saved again with the best score.
    resume = {**latest(tmp_path), 'randomness.seed': None}
    runner = train(image_root, tmp_path, MIXED, **{'train_cfg.max_epochs': 1}, **resume)
    assert runner.train_dataloader.sampler.seed == runner.seed == 0  # Those of the first start.
    assert len(list(tmp_path.glob('*/vis_data/scalars.json'))) == 1


FINITE_PASSES = {'train_dataloader.sampler': {'type': 'DefaultSampler', 'shuffle': True}}


@pytest.mark.parametrize(
    'settings',
    [
        pytest.param({}, id='infinite sampler'),
        pytest.param(FINITE_PASSES, id='passes', marks=pytest.mark.slow),
        pytest.param(WORKERS, id='workers', marks=pytest.mark.slow),
    ],
)
def test_iteration_based_training_resumes_bit_for_bit(settings, image_root, tmp_path):
    changes = {**ITERATIONS, **WITHOUT_VALIDATION, **settings}
    train(image_root, tmp_path / 'whole', changes)
    train(image_root, tmp_path / 'parts', changes, Kill(train=5))
    train(image_root, tmp_path / 'parts', changes, **latest(tmp_path / 'parts'))
    assert_equal_files(tmp_path / 'parts', tmp_path / 'whole')


class Images(Hook):
    """Record the images of every iteration."""

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append([sample.img_path for sample in data_batch['data_samples']])


@pytest.mark.slow
def test_elastic_iteration_based_training_continues_at_the_same_image_and_rate(image_root, tmp_path):
    def recorded(folder, changes):
        runner, images = runner_of(image_root, tmp_path / folder, changes), Images()
        runner.register_hook(images)
        runner.train()
        return images.seen, runner.message_hub.get_scalar('train/lr').data[0][-8:].tolist()

    changes = {**ITERATIONS, **WITHOUT_VALIDATION}
    train(image_root, tmp_path / 'parts', changes, Kill(train=5))  # After 4 of 8 batches of 4 images.
    half = {**changes, 'train_dataloader.batch_size': 2, **latest(tmp_path / 'parts'), 'elastic': True}
    with pytest.raises(ResumeError, match=r'4 and 2 .*32 images, and train_cfg\.max_iters=8 are 16\. Set .*=16.* by 2$'):
        runner_of(image_root, tmp_path / 'parts', half).train()
    half['train_cfg'] = {'by_epoch': False, 'max_iters': 16}
    half['param_scheduler'] = [{'type': 'LinearLR', 'by_epoch': False, 'start_factor': 0.5, 'end': 16}]
    resumed, rates = recorded('parts', half)
    expected, expected_rates = recorded('whole', {**half, 'resume': False, 'load_from': None})
    assert resumed == expected[8:]
    assert rates == pytest.approx(expected_rates)
    assert len(set(rates)) == 8


@pytest.mark.slow
def test_iteration_based_views_do_not_depend_on_the_workers(image_root, tmp_path):
    losses = []
    for name, settings in (('none', {}), ('two', WORKERS)):
        runner = train(image_root, tmp_path / name, {**ITERATIONS, **WITHOUT_VALIDATION, **settings})
        losses.append(runner.message_hub.get_scalar('train/loss').data[0].tolist())
    assert losses[0] == losses[1]


def test_skipped_batches_are_not_loaded_and_their_order_is_that_of_mmengine(image_root, tmp_path):
    runner = runner_of(image_root, tmp_path, ITERATIONS)
    loader, fresh = (runner.build_dataloader(runner.cfg.train_dataloader, seed=3) for _ in range(2))
    order = [list(indices) for indices, _ in zip(fresh.batch_sampler, range(9), strict=False)]
    read = []
    loader.dataset.__class__ = type('Recorded', (type(loader.dataset),), {'__getitem__': lambda self, i: read.append(i)})
    loader.collate_fn = list
    batches = SeededBatches(loader, seed=3, start=5, num_skipped=5)
    assert [next(batches) for _ in range(5)] == [None] * 5
    assert read == []
    for _ in range(4):
        next(batches)
    assert read == [index for indices in order[5:9] for index in indices]


@pytest.mark.slow
def test_broken_image_is_named_by_the_workers_of_an_iteration_based_training(tmp_path):
    write_images(tmp_path / 'train', per_class=3)
    (tmp_path / 'train' / 'class1' / '1.jpg').write_bytes(b'')
    with pytest.raises(DataError, match=r'class1/1\.jpg'):
        train(tmp_path / 'train', tmp_path / 'work', {**ITERATIONS, **WITHOUT_VALIDATION, **WORKERS})


@pytest.mark.slow
def test_accumulation_that_does_not_divide_an_epoch_resumes_bit_for_bit(image_root, tmp_path):
    # 3 iterations in an epoch: groups of 2 and 1.
    changes = {**MIXED, **WITHOUT_VALIDATION, 'optim_wrapper.accumulative_counts': 2}
    whole = train(image_root, tmp_path / 'whole', changes)
    train(image_root, tmp_path / 'parts', changes, Kill(train=4))
    train(image_root, tmp_path / 'parts', changes, **latest(tmp_path / 'parts'))
    assert_equal_files(tmp_path / 'parts', tmp_path / 'whole')
    assert not [file for file in tmp_path.glob('parts/*/*.log') if 'is lost' in file.read_text()]  # mmengine's warning.
    steps = {int(state['step']) for state in whole.optim_wrapper.optimizer.state.values()}
    assert steps == {4}  # Two in each epoch.


def test_losses_of_the_last_group_of_an_epoch_are_divided_by_its_size(image_root, tmp_path):
    changes = {**WITHOUT_VALIDATION, 'optim_wrapper.accumulative_counts': 2}
    runner = Runner.from_cfg(training_config(image_root, tmp_path, **changes))
    divisors = []

    class Record(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            divisors.append(round(1 / float(runner.optim_wrapper.scale_loss(torch.ones(())))))

    runner.register_hook(Record())
    runner.train()
    assert divisors == [2, 2, 1, 2, 2, 1]


def test_checkpoints_between_two_steps_of_the_optimizer_are_refused(image_root, tmp_path):
    with pytest.raises(ConfigError, match=r'checkpoint\.interval=4 must be a multiple of .*accumulative_counts=3'):
        train(image_root, tmp_path, {**ITERATIONS, 'optim_wrapper.accumulative_counts': 3})
    # A new best state is saved again after its validation, and would be the one that --resume finds.
    changes = {
        **ITERATIONS,
        'optim_wrapper.accumulative_counts': 4,
        'train_cfg': {**ITERATIONS['train_cfg'], 'val_interval': 6},
    }
    with pytest.raises(ConfigError, match=r'train_cfg\.val_interval=6 must be a multiple of .*accumulative_counts=4'):
        train(image_root, tmp_path, changes)


@pytest.mark.slow
def test_histories_are_as_long_as_their_windows_and_the_log_is_the_same(image_root, tmp_path):
    windows = [
        {'data_src': 'loss', 'log_name': 'whole_loss', 'method_name': 'mean', 'window_size': 'global'},
        {'data_src': 'loss_kd', 'log_name': 'loss_kd_3', 'method_name': 'mean', 'window_size': 3},
    ]
    changes = {**MIXED, 'log_processor': {'window_size': 2, 'custom_cfg': windows}}
    short = train(image_root, tmp_path / 'short', changes)
    config = training_config(image_root, tmp_path / 'long', **changes)
    config.custom_hooks = [hook for hook in config.custom_hooks if hook.type != 'HistoryLengthHook']
    long = Runner.from_cfg(config)
    long.train()
    lengths = {name: len(history.data[0]) for name, history in short.message_hub.log_scalars.items()}
    assert lengths['train/loss_kd'] == lengths['train/time'] == lengths['val/time'] == 3
    assert lengths['train/loss'] == 6  # Averaged over the whole training.
    assert lengths['val/accuracy/top1'] == 2
    assert len(long.message_hub.get_scalar('train/loss_kd').data[0]) == 6
    assert logged(tmp_path / 'short') == logged(tmp_path / 'long')
    assert 'whole_loss' in logged(tmp_path / 'short')[True, 6]


def test_seeds_are_those_of_torch():
    set_seed(5)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
