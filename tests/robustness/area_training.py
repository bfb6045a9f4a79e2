"""Attempts with unusual trainings."""

import os
import signal
import time
from pathlib import Path

import torch
from judging import Act, check, refused, works, works_or_refused
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from starting import check_equal, failure, fork, train, training_file, trains, weights


class CallInIteration(Hook):
    """Call ``act(runner)`` in an iteration; the second of the second epoch by default."""

    def __init__(self, act, at: int = 5) -> None:
        self.act, self.at = act, at

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if runner.iter + 1 == self.at:
            self.act(runner)


def train_with(hook: Hook, config: Config) -> None:
    """Train with a hook that is not in the config."""
    runner = Runner.from_cfg(config)
    runner.register_hook(hook)
    runner.train()


def fail(_runner: Runner) -> None:
    raise KeyError('my hook failed')


def resumes_equal(folder: Path, work: str = 'work', **changes) -> None:
    """Resume a stopped training, and compare with one that was not stopped."""
    train(folder, work, resume=True, **changes)
    train(folder, 'whole', **changes)
    check_equal(weights(folder / work / 'epoch_2.pth'), weights(folder / 'whole' / 'epoch_2.pth'), 'a resumed run')


def stopped_by(number: int) -> Act:
    """A signal in the second epoch: the process ends, and the run resumes exactly."""

    def act(folder: Path) -> None:
        marker = folder / 'marker'

        def wait_for_signal(_runner: Runner) -> None:
            marker.touch()
            time.sleep(30)

        config = training_file(folder)
        process = fork(lambda: train_with(CallInIteration(wait_for_signal), config), folder / 'output')
        while not marker.exists():
            if os.waitpid(process, os.WNOHANG)[0]:
                raise failure((folder / 'output').read_text())
            time.sleep(0.01)
        os.kill(process, number)
        for _ in range(1000):
            if os.waitpid(process, os.WNOHANG)[0]:
                break
            time.sleep(0.01)
        else:
            check(False, 'the process did not end')
        check(not list(folder.glob('work/.*partial*')), 'a partial file is left')
        resumes_equal(folder)

    return act


def fails_in_hook(folder: Path) -> None:
    try:
        train_with(CallInIteration(fail), training_file(folder))
    except KeyError as error:
        check('my hook failed' in str(error), f'another error: {error}')
    resumes_equal(folder)


def killed_worker(folder: Path) -> None:
    def kill(runner: Runner) -> None:
        loader = runner.train_dataloader
        os.kill(loader._iterator._workers[0].pid, signal.SIGKILL)
        time.sleep(0.5)

    workers = dict(train_dataloader__num_workers=2, train_dataloader__persistent_workers=True)
    train_with(CallInIteration(kill, at=1), training_file(folder, train_dataloader__batch_size=1, **workers))


def two_in_one_process(folder: Path) -> None:
    train(folder, 'one')
    second = train(folder, 'two')
    check(len(second.message_hub.get_scalar('train/loss').data[0]) == 6, 'the second run has the history of the first')
    check_equal(weights(folder / 'two' / 'epoch_2.pth'), weights(folder / 'one' / 'epoch_2.pth'), 'the same run again')


def trained_twice(folder: Path) -> None:
    runner = train(folder)
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    runner.train()
    check_equal(runner.model.state_dict(), before, 'a finished runner that trains again')


def resumed_at_the_end(folder: Path) -> None:
    train(folder)
    files = {file.name: file.read_bytes() for file in (folder / 'work').glob('*.pth')}
    runner = train(folder, resume=True)
    check(runner.iter == 6, f'{runner.iter} iterations')
    check({file.name: file.read_bytes() for file in (folder / 'work').glob('*.pth')} == files, 'checkpoints changed')


def frozen_by_rate(folder: Path) -> None:
    def freeze(config: Config) -> None:
        config.optim_wrapper.paramwise_cfg = dict(custom_keys={'backbone': dict(lr_mult=0, decay_mult=0)})

    one, two = (train(folder, f'{rate}', freeze, optim_wrapper__optimizer__lr=rate).model for rate in (1e-3, 1e-1))
    check_equal(two.backbone.state_dict(), one.backbone.state_dict(), 'a frozen backbone')
    check(not torch.equal(one.head.layers.head.weight, two.head.layers.head.weight), 'the head is frozen too')


def scaled_rate(folder: Path) -> None:
    def scale(config: Config) -> None:
        config.auto_scale_lr = dict(enable=True, base_batch_size=8)
        config.param_scheduler = []

    runner = train(folder, edit=scale, optim_wrapper__optimizer__lr=1e-3)
    check(abs(runner.optim_wrapper.get_lr()['lr'][0] - 5e-4) < 1e-9, f'learning rates {runner.optim_wrapper.get_lr()}')


def by_iterations(config: Config) -> None:
    config.train_cfg = dict(type='IterBasedTrainLoop', max_iters=7, val_interval=3)
    config.param_scheduler = dict(type='CosineAnnealingLR', by_epoch=False, T_max=7)
    config.default_hooks.checkpoint.update(by_epoch=False, interval=3)


def iterations(folder: Path) -> None:
    runner = train(folder, edit=by_iterations)
    names = {file.name for file in (folder / 'work').glob('iter_*.pth')}
    check(runner.iter == 7 and {'iter_3.pth', 'iter_6.pth'} <= names, f'{runner.iter} iterations, {names}')


def plateau(folder: Path) -> None:
    schedule = [
        dict(type='ReduceOnPlateauLR', monitor='accuracy/top1', rule='greater', factor=0.5, patience=0, threshold=200)
    ]
    changes = dict(param_scheduler=schedule)
    train(folder, 'parts', train_cfg__max_epochs=1, **changes)
    parts, whole = train(folder, 'parts', resume=True, **changes), train(folder, 'whole', **changes)
    rates = [runner.optim_wrapper.get_lr()['lr'] for runner in (parts, whole)]
    check(rates[0] == rates[1], f'learning rates {rates[0][0]} and {rates[1][0]}')
    check_equal(weights(folder / 'parts' / 'epoch_2.pth'), weights(folder / 'whole' / 'epoch_2.pth'), 'a resumed run')


def hooks_in_another_order(folder: Path) -> None:
    train(folder, 'reversed', edit=lambda config: config.custom_hooks.reverse())
    train(folder)
    check_equal(weights(folder / 'reversed' / 'epoch_2.pth'), weights(folder / 'work' / 'epoch_2.pth'), 'reversed hooks')


def kept(expected: set[str], **changes) -> Act:
    """Settings of the checkpoint hook, and the files that it leaves, without the best."""

    def act(folder: Path) -> None:
        settings = {f'default_hooks.checkpoint.{name}': value for name, value in changes.items()}
        train(folder, train_cfg__max_epochs=3, **settings)
        files = {file.name for file in folder.rglob('*.pth') if not file.name.startswith('best')}
        check(files == expected, f'{files} instead of {expected}')

    return act


def only_tested(folder: Path) -> None:
    train(folder, 'trained')

    def keep_test(config: Config) -> None:
        for name in ('train', 'val'):
            for part in ('dataloader', 'cfg', 'evaluator'):
                config.pop(f'{name}_{part}', None)
        config.pop('optim_wrapper')
        config.pop('param_scheduler')
        config.load_from = str(folder / 'trained' / 'epoch_2.pth')

    metrics = Runner.from_cfg(training_file(folder, edit=keep_test)).test()
    check('accuracy/top1' in metrics, f'metrics {metrics}')


def negative_seed(folder: Path) -> None:
    train(folder, randomness__seed=-1)


def no_validation(config: Config) -> None:
    config.val_dataloader = config.val_cfg = config.val_evaluator = None


def swa(config: Config) -> None:
    config.custom_hooks.append(dict(type='EMAHook', ema_type='StochasticWeightAverage', begin_epoch=1))


def stops_early(config: Config) -> None:
    config.custom_hooks.append(dict(type='EarlyStoppingHook', monitor='accuracy/top1', patience=1, min_delta=200))


def one_scheduler(config: Config) -> None:
    config.param_scheduler = dict(type='ConstantLR', factor=0.5)


def two_optimizers(config: Config) -> None:
    part = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    config.optim_wrapper = dict(student=part, distill=part, constructor='DefaultOptimWrapperConstructor')


METRICS = dict(val_evaluator=[dict(type='Accuracy', topk=1), dict(type='SingleLabelMetric')])
RULES = {'default_hooks.checkpoint.rule': 'greater'}
BEST = {**RULES, 'default_hooks.checkpoint.save_best': ['accuracy/top1', 'single-label/f1-score'], **METRICS}
ATTEMPTS = [
    works('SIGINT in the second epoch, and resume', stopped_by(signal.SIGINT)),
    works('SIGTERM in the second epoch, and resume', stopped_by(signal.SIGTERM)),
    works('SIGHUP in the second epoch, and resume', stopped_by(signal.SIGHUP)),
    works('an exception in a hook, and resume', fails_in_hook),
    refused('a worker process is killed, as for lack of memory', killed_worker, 'worker', 'killed'),
    works('two runs in one process', two_in_one_process),
    works('train() twice with one runner', trained_twice),
    works('a run resumes that had ended', resumed_at_the_end),
    works('ReduceOnPlateau, resumed', plateau),
    works('a loop by iterations', iterations),
    works('hooks in another order', hooks_in_another_order),
    works('stochastic weight averaging', trains(swa)),
    works('a rate of 0 for the backbone', frozen_by_rate),
    works('auto_scale_lr', scaled_rate),
    works('validation never comes', trains(train_cfg__val_interval=9)),
    works('no validation, with save_best', trains(no_validation)),
    works('early stopping', trains(stops_early, iterations=None, train_cfg__max_epochs=5)),
    works('only a test, without training settings', only_tested),
    works('one scheduler instead of a list', trains(one_scheduler)),
    works('no scheduler', trains(param_scheduler=None)),
    works(
        "an optimizer without weight decay, and the schedule's paramwise_cfg",
        trains(optim_wrapper__optimizer=dict(_delete_=True, type='SGD', lr=0.1)),
    ),
    works_or_refused('an optimizer for each part', trains(two_optimizers), 'optim_wrapper'),
    works('a log interval longer than the run', trains(default_hooks__logger__interval=1000)),
    works('one batch an epoch', trains(iterations=2, train_dataloader__num_batch_per_epoch=1)),
    works('no seed', trains(randomness={})),
    works('deterministic algorithms', trains(randomness=dict(seed=0, deterministic=True))),
    refused('a negative seed', negative_seed, 'Seed'),
    works('a checkpoint every third epoch', kept({'epoch_3.pth'}, interval=3)),
    works('one kept checkpoint', kept({'epoch_3.pth'}, max_keep_ckpts=1)),
    works('checkpoints by another name', kept({'e1.pth', 'e2.pth', 'e3.pth'}, filename_tmpl='e{}.pth')),
    works('checkpoints in another folder', kept({'epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth'}, out_dir='elsewhere')),
    works('no checkpoint at the end', kept({'epoch_2.pth'}, interval=2, save_last=False)),
    works('two best metrics', trains(**BEST)),
]
