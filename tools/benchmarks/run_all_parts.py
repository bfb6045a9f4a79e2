"""The parts of run_all.py: the command of each, its time limit, and the reader of its key figures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import run_all_figures as figures
from mmengine.utils import digit_version

FOLDER = Path('tools') / 'benchmarks'
PIPELINES = ('deit-ti_mae-b', 'resnet18_resnet101')
TARGETS = {'sm_75', 'sm_80', 'sm_86', 'sm_89', 'sm_90', 'sm_100'}  # Those of kernel_statistics.py.


@dataclass(frozen=True)
class Part:
    """A check or a benchmark.

    Attributes:
        name: Name in the report, of the log, and for ``--parts``.
        title: What it does.
        command: Arguments of Python.
        seconds: Time limit on a GPU; without one it is ten times as long.
        numbers: File that the command writes.
        figures: Reads the key figures of this file. It raises ``Failed`` if they show a failure.
        needs: A package without which the part is skipped, as 'triton' or 'triton>=3.3'. Default: None.
    """

    name: str
    title: str
    command: list[str | Path]
    seconds: int
    numbers: Path
    figures: Callable[[Path], dict]
    needs: str | None = None

    def lacks(self, installed: Mapping[str, str]) -> str | None:
        """Return why the part is skipped, given versions by package; None if it is not."""
        package, _, least = (self.needs or '').partition('>=')
        if package and package not in installed:
            return f'{package} is not installed'
        if least and digit_version(installed[package]) < digit_version(least):
            return f'{package} {installed[package]} is older than {least}'
        return None


@dataclass(frozen=True)
class Settings:
    """What the commands depend on.

    Attributes:
        out: Folder of all results, absolute.
        quick: Whether to compute little.
        device: 'cpu' or 'cuda'.
        capability: Target of the GPU such as 'sm_90'. Default: None.
    """

    out: Path
    quick: bool
    device: str
    capability: str | None = None

    def log(self, name: str) -> Path:
        """File in the folder of logs."""
        return self.out / 'logs' / name


def machine_part(log: Path, device: str | None) -> Part:
    """Return the first part: which device there is, or whether the one that was asked for is there."""
    command = [FOLDER / 'gpu_checks.py', 'machine', '--out', log, *(['--device', device] if device else [])]
    return Part('machine', 'device and packages', command, 120, log, figures.of_check)


def parts_of(run: Settings) -> list[Part]:
    """Return all parts: checks first, then benchmarks, the longest last."""
    return [
        _tests(run),
        _check(run, 'kernel', 'the angle kernel against PyTorch', 90, 'kernel', needs='triton'),
        _check(run, 'fallback', 'the angle loss without the kernel', 60, 'fallback', needs='triton'),
        *(
            _check(run, name, 'a step in bfloat16 against float32; peak memory', 120, 'pipeline', '--config', config)
            for name, config in ((name, Path('configs') / 'serkd' / f'{name}.py') for name in PIPELINES)
        ),
        _distributed(run),
        _statistics(run),
        _benchmark(run, 'relation_losses', 'the losses', 150, (1, 2), figures.of_losses, ['--cases', '9x2']),
        _benchmark(
            run,
            'growth',
            'the angle loss by size',
            90,
            (0.5, 1),
            figures.of_growth,
            ['--tokens', '5', '9', '--images', '1', '2'],
        ),
        _benchmark(run, 'training_step', 'steps of SeRKD and others', 200, (3, 10), figures.of_steps, ['--batch', '2']),
        _methods(run),
    ]


def _tests(run: Settings) -> Part:
    junit = run.log('ops.xml')
    tests = Path('tests') / 'ops' / ('test_devices.py' if run.quick else '')
    command = ['-m', 'pytest', '-p', 'no:cacheprovider', '-m', 'not slow', tests, f'--junitxml={junit}']
    return Part('ops', 'tests of serkd_mm.ops', command, 150, junit, partial(figures.of_tests, device=run.device))


def _check(run: Settings, name: str, title: str, seconds: int, *arguments: str | Path, needs: str | None = None) -> Part:
    """A check of gpu_checks.py."""
    numbers = run.log(f'{name}.json')
    command = [FOLDER / 'gpu_checks.py', *arguments, '--device', run.device, '--out', numbers]
    return Part(name, title, [*command, *['--quick'] * run.quick], seconds, numbers, figures.of_check, needs)


def _distributed(run: Settings) -> Part:
    numbers = run.log('distributed.json')
    command = [FOLDER / 'distributed_check.py', '--device', run.device, '--out', numbers]
    return Part('distributed', 'a training by tools/dist_train.sh', command, 90, numbers, figures.of_check)


def _statistics(run: Settings) -> Part:
    numbers = run.log('kernel_statistics.json')
    targets = {'sm_90'} if run.quick else {'sm_80', 'sm_90', run.capability} & TARGETS
    tokens = ['49'] if run.quick else ['49', '196']
    command = [FOLDER / 'kernel_statistics.py', '--targets', *sorted(targets), '--tokens', *tokens, '--out', numbers]
    read = partial(figures.of_statistics, target=run.capability)
    return Part('kernel_statistics', 'the compiled angle kernel', command, 90, numbers, read, 'triton>=3.3')


def _benchmark(
    run: Settings,
    name: str,
    title: str,
    seconds: int,
    durations: tuple[float, float],
    read: Callable[[Path], dict],
    quick: list[str],
) -> Part:
    """A benchmark, with the seconds of a measurement on a GPU and on a CPU, and the arguments that make it quick."""
    duration = 0.01 if run.quick else durations[run.device == 'cpu']
    command = [FOLDER / f'{name}.py', '--device', run.device, '--seconds', str(duration), '--out', run.out]
    numbers = run.out / f'{name}_{run.device}.json'
    return Part(name, title, [*command, *quick * run.quick], seconds, numbers, read)


def _methods(run: Settings) -> Part:
    part = _benchmark(run, 'training_step', 'steps of all methods', 200, (1.5, 10), figures.of_methods, ['--batch', '2'])
    command = [*part.command, '--methods', *['kd', 'serkd'] * run.quick]
    numbers = run.out / f'training_step_methods_{run.device}.json'
    return Part('methods', part.title, command, part.seconds, numbers, part.figures)
