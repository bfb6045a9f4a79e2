"""Train, be killed, resume, and so on: ``python killed_training.py CONFIG KILLS``; the last start goes on to the end.

Each start is a process of its own, forked from this one, which has imported what it needs. Writing is made slow, so that
many a kill meets it. Prints how many kills met the training, and how many a file half written.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import mmpretrain  # noqa: F401 (imported once, for all starts)
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from serkd_mm.fileio import atomic_backend

_fsync = os.fsync


def slow_fsync(descriptor: int) -> None:
    """As long as a large checkpoint takes."""
    time.sleep(0.1)
    _fsync(descriptor)


@HOOKS.register_module()
class SayWhenItBegins(Hook):
    """Leaves a file when the first epoch of a start begins."""

    def before_train_epoch(self, runner: Runner) -> None:
        (Path(runner.work_dir) / 'begun').touch()


def start(config: Config) -> int:
    """Fork a training that resumes; its process id."""
    process = os.fork()
    if process == 0:
        try:
            Runner.from_cfg(config).train()
            os._exit(0)
        finally:
            os._exit(1)
    return process


def main() -> None:
    """Kill and resume, then train to the end."""
    config, wanted = Config.fromfile(sys.argv[1]), int(sys.argv[2])
    config.resume = True
    config.custom_hooks.append(dict(type='SayWhenItBegins'))
    atomic_backend.os.fsync = slow_fsync
    work_dir = Path(config.work_dir)
    rng, kills, writing = random.Random(0), 0, 0
    while kills < wanted:
        process = start(config)
        while not (work_dir / 'begun').exists():
            if os.waitpid(process, os.WNOHANG) != (0, 0):
                raise SystemExit('A start ended before its first epoch began')
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.4))
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        if not os.WIFSIGNALED(status):
            break  # It had come to its end, or failed.
        kills += 1
        writing += bool(list(work_dir.glob('.*.partial')))
        (work_dir / 'begun').unlink()
    _, status = os.waitpid(start(config), 0)
    print(json.dumps({'kills': kills, 'writing': writing, 'status': status}))


if __name__ == '__main__':
    main()
