"""Experiments of several trainings, some in parallel: teachers first, then students over several seeds.

Every run is a call of tools/train.py. A second start skips the runs that have finished and resumes the others.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import report
from mmengine.config import Config

from serkd_mm.config_files import OptionsAction
from serkd_mm.fileio.run_lock import RunLock
from serkd_mm.fileio.work_dir import WorkDirError

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        config: The config file.
        folder: Name of its work folder in the folder of the experiment.
        seed: Seed of the training.
        teacher: The run whose last checkpoint is the teacher. Default: None, without a teacher.
    """

    config: Path
    folder: str
    seed: int
    teacher: 'Run | None' = None


class Experiment:
    """Runs that share a folder, a dataset and settings.

    Args:
        work_dir: Folder of all runs.
        data_root: Folder of the images; None if the configs name it.
        options: Settings of every run, in the format of ``--cfg-options``.
        jobs: Number of parallel trainings.
        gpu: Whether the runs may use GPUs. Default: False.
    """

    def __init__(self, work_dir: Path, data_root: Path | None, options: Sequence[str], jobs: int, gpu: bool = False) -> None:
        self.work_dir, self.data_root = work_dir.resolve(), data_root and data_root.resolve()
        self.options = list(options)
        self.jobs, self.gpu = jobs, gpu

    def run(self, teachers: Sequence[Run], students: Sequence[Run]) -> None:
        """Train all teachers, then all students.

        Raises:
            SystemExit: A training failed; its output is in ``train.log`` of its work folder.
        """
        self._total, self._numbers = len(teachers) + len(students), count(1)
        print(f'{self._total} trainings in {self.work_dir}, {self.jobs} in parallel', flush=True)
        if teachers:
            self._train_all(teachers, threads=max(self.jobs // len(teachers), 1))
        self._train_all(students, threads=1)

    def folder(self, run: Run) -> Path:
        """Return the work folder of a run."""
        return self.work_dir / run.folder

    def _train_all(self, runs: Sequence[Run], threads: int) -> None:
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = [pool.submit(self._train, run, threads) for run in runs]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _train(self, run: Run, threads: int) -> None:
        """Train one run unless it has finished, and print its accuracy."""
        work_dir, started = self.folder(run), time.time()
        if not (work_dir / 'finished').is_file():
            self._refuse_running(work_dir)
            if self.last_checkpoint(run).is_file():
                shutil.rmtree(work_dir)  # Stopped between its last checkpoint and its last validation.
            work_dir.mkdir(parents=True, exist_ok=True)
            print(f'      {run.folder}: training, see {work_dir / "train.log"}', flush=True)
            self._call_train(run, threads)
            self._conclude(work_dir)
            (work_dir / 'finished').touch()
        accuracy = report.accuracy_curve(work_dir)[-1][1]
        seconds = time.time() - started
        number = f'[{next(self._numbers)}/{self._total}]'
        # The line and its end at once: other threads print, too.
        print(f'{number} {run.folder}: {accuracy:.2f} % ({seconds:.0f} s)\n', end='', flush=True)

    def _refuse_running(self, work_dir: Path) -> None:
        """Raise if a training of another start still runs: its folder must not be removed."""
        try:
            RunLock(work_dir / 'run.lock', advice='Two starts would train the same: wait').refuse_if_held()
        except WorkDirError as error:
            raise SystemExit(str(error)) from None

    def _conclude(self, work_dir: Path) -> None:
        """Process the output of a run that has ended; for subclasses."""

    def _call_train(self, run: Run, threads: int) -> None:
        work_dir = self.folder(run)
        command = [sys.executable, ROOT / 'tools' / 'train.py', run.config, '--resume']
        command += ['--work-dir', work_dir, '--cfg-options', *self._settings(run)]
        environment = {'OMP_NUM_THREADS': str(threads)}
        if not self.gpu:
            environment['CUDA_VISIBLE_DEVICES'] = '-1'
        call_tool(command, work_dir / 'train.log', **environment)

    def _settings(self, run: Run) -> list[str]:
        """Settings of a run in addition to its config file."""
        settings = [f'randomness.seed={run.seed}', *self.options]
        if self.data_root is not None:
            for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
                settings.append(f'{loader}.dataset.data_root={self.data_root}')
        if run.teacher is not None:
            settings.append(f'model.teacher.checkpoint={self.last_checkpoint(run.teacher)}')
        return settings

    def last_checkpoint(self, run: Run) -> Path:
        """Return the path of the last checkpoint of a run."""
        config = Config.fromfile(run.config)
        config.merge_from_dict(parsed(self.options))
        return self.folder(run) / f'epoch_{config.train_cfg.max_epochs}.pth'


def call_tool(command: Sequence[object], log: Path, **environment: str) -> None:
    """Run a tool in the folder of the repository; its output is appended to a file.

    Args:
        command: The program and its arguments.
        log: The file.
        environment: Environment variables in addition to the present ones.

    Raises:
        SystemExit: The tool failed.
    """
    with log.open('a', encoding='utf-8') as file:
        code = subprocess.run(
            [str(part) for part in command],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=file,
            stderr=file,
            check=False,
        ).returncode
    if code:
        raise SystemExit(f'{log.parent.name}: {Path(str(command[1])).name} failed with exit code {code}; see {log}')


def parse_arguments(
    description: str, name: str, data_root: Path, add: Callable[[argparse.ArgumentParser], None] | None = None
) -> argparse.Namespace:
    """Parse the command line of an experiment.

    Args:
        description: Description of the experiment.
        name: Default folder of the runs in ``work_dirs``.
        data_root: Default folder of the images.
        add: Adds arguments to the parser. Default: None.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if add is not None:
        add(parser)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='seeds of the students')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / name, help='folder of the runs')
    parser.add_argument('--data-root', type=Path, default=data_root, help='folder of the images')
    parser.add_argument('--jobs', type=int, default=min(os.cpu_count() or 1, 4), help='number of parallel trainings')
    parser.add_argument('--cfg-options', nargs='+', default=[], help='settings of every run, as in tools/train.py')
    return parser.parse_args()


def parsed(options: list[str]) -> dict:
    """Return settings as a dict, parsed as by the command lines of mmengine."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction, default={})
    return parser.parse_args(['--cfg-options', *options] if options else []).cfg_options
