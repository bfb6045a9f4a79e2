"""Make an attempt to break serkd-mm in a process by itself, and judge what happens against what should happen."""

import json
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

OUTCOMES = ('works', 'refused clearly', 'unclear', 'bad')
# A message longer than this is not read.
_LONGEST_MESSAGE = 900
Act = Callable[[Path], None]


class Wrong(AssertionError):
    """The result is wrong, and nothing said so."""


class ToolError(Exception):
    """A tool or another process failed; the message is what its user sees at the end."""

    def __init__(self, message: str, is_ours: bool) -> None:
        super().__init__(message)
        self.is_ours = is_ours


@dataclass(frozen=True)
class Attempt:
    """An attempt and what should happen.

    Attributes:
        what: Description.
        act: Makes the attempt in a folder. It raises :class:`Wrong` for a wrong result, or the error that a user would see.
        names: What an error message must name; None if the attempt should work.
        may_work: Whether working is right too, if ``names`` is given.
        seconds: Time limit.
    """

    what: str
    act: Act
    names: tuple[str, ...] | None = None
    may_work: bool = False
    seconds: float = 60

    @property
    def expected(self) -> str:
        """What should happen, in words."""
        if self.names is None:
            return 'works'
        return ('works, or ' if self.may_work else '') + 'refused, naming ' + ', '.join(self.names)


@dataclass(frozen=True)
class Result:
    """The outcome of an attempt, one of ``OUTCOMES``, and what happened."""

    outcome: str
    happened: str


def works(what: str, act: Act, seconds: float = 60) -> Attempt:
    """Return an attempt that should work."""
    return Attempt(what, act, seconds=seconds)


def refused(what: str, act: Act, *names: str, seconds: float = 60) -> Attempt:
    """Return an attempt that should raise an error that names the setting or file."""
    return Attempt(what, act, names, seconds=seconds)


def works_or_refused(what: str, act: Act, *names: str, seconds: float = 60) -> Attempt:
    """Return an attempt that may work or raise a clear error, but nothing else."""
    return Attempt(what, act, names, may_work=True, seconds=seconds)


def check(condition: object, message: str) -> None:
    """Raise :class:`Wrong` unless a condition holds."""
    if not condition:
        raise Wrong(message)


def make(attempt: Attempt, folder: Path) -> Result:
    """Make an attempt in a forked process with a time limit.

    Args:
        attempt: The attempt.
        folder: New folder for its files; it is the working directory. It is removed afterwards.
    """
    scratch, report = folder / 'files', folder / 'report.json'
    scratch.mkdir(parents=True)
    (folder / 'output.txt').touch()  # A process that is killed at once has none.
    process = os.fork()
    if process == 0:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell ignores it for what it starts in the background.
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with _streams(folder / 'output.txt'):
            report.write_text(json.dumps(_report(attempt, scratch)))
            os._exit(0)
    status = wait(process, attempt.seconds)
    _kill_group(process)
    output = (folder / 'output.txt').read_text(errors='replace')[-300:]
    found = json.loads(report.read_text()) if report.is_file() else None
    _remove(folder)
    if status is None:
        return Result('bad', f'hangs: no end after {attempt.seconds:g} s')
    if found is None:
        return Result('bad', f'the process died with status {status}: {output}')
    return judge(attempt, found)


def judge(attempt: Attempt, found: dict) -> Result:
    """Judge what an attempt reported."""
    error, message = found['error'], ' '.join(found['message'].split())
    shown = f'{error}: {message}'[:600] if error else ''
    if error is None:
        accepted = attempt.names is None or attempt.may_work
        return Result('works', '') if accepted else Result('bad', 'accepted, and nothing is said')
    if error == 'Wrong':
        return Result('bad', message[:600])
    if attempt.names is None:
        return Result('unclear', f'should work: {shown}')
    unnamed = [name for name in attempt.names if name not in message]
    is_line = found['is_ours'] or '\n' not in found['message'].strip()
    if unnamed or not is_line or len(message) > _LONGEST_MESSAGE:
        return Result('unclear', f'{f"does not name {unnamed}: " if unnamed else ""}{shown}')
    return Result('refused clearly', shown)


def wait(process: int, seconds: float) -> int | None:
    """Wait for a child process; return its exit status, negative for a signal, or None if it still runs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def _report(attempt: Attempt, scratch: Path) -> dict:
    """Make the attempt in this process; return the error, if any, in plain values."""
    os.chdir(scratch)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    try:
        attempt.act(scratch)
    except BaseException as error:
        traceback.print_exc()
        return {'error': type(error).__name__, 'message': str(error), 'is_ours': _is_ours(error)}
    return {'error': None, 'message': '', 'is_ours': False}


def _is_ours(error: BaseException) -> bool:
    """Whether an error is of a class of this package, or raised by its code."""
    if isinstance(error, ToolError):
        return error.is_ours
    innermost = traceback.extract_tb(error.__traceback__)[-1].filename
    return type(error).__module__.startswith('serkd_mm.') or bool(re.search(r'/(serkd_mm|tools)/', innermost))


@contextmanager
def _streams(output: Path) -> Iterator[None]:
    """Redirect the output of this process and its children to a file; they read nothing."""
    sys.stdout.flush()
    sys.stderr.flush()
    target = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    source = os.open(os.devnull, os.O_RDONLY)
    for descriptor, new in ((0, source), (1, target), (2, target)):
        os.dup2(new, descriptor)
    yield


def _kill_group(process: int) -> None:
    """Kill what is left of an attempt."""
    try:
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def _remove(folder: Path) -> None:
    for path in folder.rglob('*'):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)
