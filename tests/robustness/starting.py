"""What attempts have in common: building a distiller, taking a step, training, and starting a tool."""

import os
import re
import runpy
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from builders import REPOSITORY, build_distiller, distiller_config, images, labels, training_config, write_images
from judging import Act, ToolError, Wrong, check, wait
from mmengine.config import Config
from mmengine.runner import Runner

TOOLS = REPOSITORY / 'tools'
# What a user reads last, when a tool fails.
_LAST_LINES = 3


def step(model: torch.nn.Module, inputs: torch.Tensor | None = None, samples: list | None = None) -> dict[str, torch.Tensor]:
    """Take a training step without an optimizer; losses and gradients must be finite."""
    inputs = images() if inputs is None else inputs
    losses = model(inputs, samples or labels(len(inputs)), mode='loss')
    model.parse_losses(losses)[0].backward()
    check(all(loss.isfinite().all() for loss in losses.values()), f'losses are not finite: {losses}')
    for name, weight in model.named_parameters():
        check(weight.grad is None or weight.grad.isfinite().all(), f'the gradient of {name} is not finite')
    return losses


def builds(config: Callable = distiller_config, **changes) -> Act:
    """Return an act that builds a distiller with changed settings, and takes a step."""
    return lambda folder: step(build_distiller(config, **changes).train()) and None


def train(folder: Path, name: str = 'work', edit: Callable[[Config], None] | None = None, **changes) -> Runner:
    """Train the small pair on generated images in ``folder``; settings have ``__`` for dots."""
    runner = Runner.from_cfg(training_file(folder, name, edit, **changes))
    runner.train()
    return runner


def training_file(folder: Path, name: str = 'work', edit: Callable[[Config], None] | None = None, **changes) -> Config:
    """Write the images unless they exist, and return the config of :func:`train`."""
    if not (folder / 'images').exists():
        write_images(folder / 'images', per_class=3)
    settings = {path.replace('__', '.'): value for path, value in changes.items()}
    config = training_config(folder / 'images', folder / name, **settings)
    if edit is not None:
        edit(config)
    return config


def trains(edit: Callable[[Config], None] | None = None, iterations: int | None = 6, **changes) -> Act:
    """Return an act that trains, and checks the number of iterations and that weights are finite."""

    def act(folder: Path) -> None:
        runner = train(folder, edit=edit, **changes)
        check(iterations in (None, runner.iter), f'{runner.iter} iterations instead of {iterations}')
        check(all(weight.isfinite().all() for weight in runner.model.parameters()), 'a weight is not finite')

    return act


def weights(file: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a checkpoint."""
    return torch.load(file, map_location='cpu', weights_only=True)['state_dict']


def check_equal(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], what: str) -> None:
    """Check that two state dicts are bit-identical."""
    check(actual.keys() == expected.keys(), f'{what}: other names')
    different = [name for name, value in expected.items() if not torch.equal(actual[name], value)]
    check(not different, f'{what}: {len(different)} of {len(expected)} weights differ, for example {different[:1]}')


def check_close(actual: torch.Tensor, expected: torch.Tensor, what: str, tolerance: float = 1e-5) -> None:
    """Check two tensors up to a tolerance relative to the largest value."""
    error = (actual - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
    check(error <= tolerance, f'{what}: relative error {error.item():.2g}')


def fork(act: Callable[[], None], output: Path) -> int:
    """Start a function in a forked process whose output goes to a file; it ends as Python ends a script. Return its id."""
    process = os.fork()
    if process:
        return process
    target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(target, 1)
    os.dup2(target, 2)
    status = 1
    try:
        act()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def tool(name: str, *arguments: object, cwd: Path | None = None, seconds: float = 120, **environment: str) -> str:
    """Run a tool of this package in a forked process as ``python tools/NAME ARGUMENTS``; return its output.

    Raises:
        ToolError: It failed.
        Wrong: It did not end.
    """

    def run() -> None:
        os.chdir(cwd or Path.cwd())
        os.environ.update(environment)
        sys.argv = [str(TOOLS / name), *map(str, arguments)]
        sys.path[0] = str((TOOLS / name).parent)
        runpy.run_path(sys.argv[0], run_name='__main__')

    output = Path.cwd() / f'{Path(name).stem}.output'
    return ended(fork(run, output), output, seconds)


def python(*arguments: object, cwd: Path | None = None, seconds: float = 120, **environment: str) -> str:
    """Run Python in a fresh process; return its output. Raises as :func:`tool` does."""
    paths = os.pathsep.join(map(str, (Path(__file__).parent, REPOSITORY / 'tests', REPOSITORY)))
    settings = {**os.environ, 'PYTHONPATH': paths, 'PYTHONWARNINGS': 'ignore', **environment}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds,
        check=False,
    )
    text = done.stdout.decode(errors='replace')
    if done.returncode:
        raise failure(text)
    return text


def ended(process: int, output: Path, seconds: float = 120) -> str:
    """Wait for a process of :func:`fork` and return its output.

    Raises:
        ToolError: It failed.
        Wrong: It did not end.
    """
    status = wait(process, seconds)
    text = output.read_text(errors='replace')
    if status is None:
        raise Wrong(f'hangs: no end after {seconds:g} s. {text[-300:]}')
    if status:
        raise failure(text)
    return text


def failure(text: str) -> ToolError:
    """The error that the user of a failed process sees: the last exception, or else the last lines."""
    errors = [match.start() for match in re.finditer(r'^[\w.]+(Error|Exception|Interrupt|Exit)\b.*', text, re.MULTILINE)]
    if 'Traceback (most recent call last)' in text and errors:
        message = text[errors[-1] :]
        return ToolError(message, message.startswith('serkd_mm.'))
    lines = text.strip().splitlines()
    last = lines[-1:] if lines and lines[-1].startswith('error: ') else lines[-_LAST_LINES:]
    return ToolError('\n'.join(last), is_ours=True)


def all_pass(acts: Iterable[Act]) -> Act:
    """Return an act of several."""

    def act(folder: Path) -> None:
        for one in acts:
            one(folder)

    return act
