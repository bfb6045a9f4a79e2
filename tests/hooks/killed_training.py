"""Kill and resume a training repeatedly, then train to the end: ``python killed_training.py CONFIG KILLS``.

Each start is a separate process, forked from this one, which has already imported the packages. If there are kills,
writing is slowed down, so that many interrupt it. Prints the number of kills, and how many of them left a partially written
file.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import mmpretrain  # noqa: F401 (imported once for all starts)
from mmengine.config import Config
from mmengine.config import config as mmengine_config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from serkd_mm.fileio import atomic_backend

_fsync = os.fsync


def slow_fsync(descriptor: int) -> None:
    """Take as long as for a large checkpoint."""
    time.sleep(0.1)
    _fsync(descriptor)


@HOOKS.register_module()
class MarkFirstEpoch(Hook):
    """Create a file when an epoch begins, which shows that the start has reached training."""

    def before_train_epoch(self, runner: Runner) -> None:
        (Path(runner.work_dir) / 'started').touch()


def start(config: Config) -> int:
    """Fork a training that resumes, and return its process id."""
    process = os.fork()
    if process == 0:
        try:
            Runner.from_cfg(config).train()
            os._exit(0)
        finally:
            os._exit(1)
    return process


def format_once(config: Config) -> None:
    """Format the text of a config before all starts: each formats it several times, most of the time that a start takes."""
    format_code, texts = mmengine_config.FormatCode, {}

    def formatted(text: str, **settings) -> tuple[str, bool]:
        if text not in texts:
            texts[text] = format_code(text, **settings)
        return texts[text]

    mmengine_config.FormatCode = formatted
    config.pretty_text  # noqa: B018 (a property)


def main() -> None:
    """Kill and resume, then train to the end."""
    config, wanted = Config.fromfile(sys.argv[1]), int(sys.argv[2])
    config.resume = True
    config.custom_hooks.append(dict(type='MarkFirstEpoch'))
    if wanted:
        atomic_backend.os.fsync = slow_fsync
    format_once(config)
    work_dir = Path(config.work_dir)
    rng, kills, writing = random.Random(0), 0, 0
    while kills < wanted:
        process = start(config)
        while not (work_dir / 'started').exists():
            if os.waitpid(process, os.WNOHANG) != (0, 0):
                raise SystemExit('A start ended before its first epoch began')
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.4))
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        if not os.WIFSIGNALED(status):
            break  # The training had ended or failed.
        kills += 1
        writing += bool(list(work_dir.glob('.*.partial')))
        (work_dir / 'started').unlink()
    _, status = os.waitpid(start(config), 0)
    print(json.dumps({'kills': kills, 'writing': writing, 'status': status}))


if __name__ == '__main__':
    main()
