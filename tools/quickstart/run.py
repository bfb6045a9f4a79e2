"""The quickstart's experiment: one teacher, then the same student with labels only, logit KD and SeRKD, over several seeds.

    python tools/quickstart/run.py [--seeds 0 1 2] [--work-dir DIR] [--data-root DIR] [--jobs N] [--cfg-options KEY=VALUE]

Every run is a plain call of tools/train.py. Started again, it skips what is finished and resumes what is not.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import make_digits
import report
from mmengine.config import Config, DictAction

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs' / 'quickstart'
STUDENTS = ('labels', 'kd', 'serkd')


class Experiment:
    """Runs that share a folder, a data set and options.

    Args:
        args: The parsed command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.work_dir = args.work_dir.resolve()
        self.data_root = args.data_root.resolve()
        self.options = args.cfg_options
        self.total = 1 + len(STUDENTS) * len(args.seeds)
        self._numbers = count(1)

    def train(self, config: str, folder: str, seed: int, threads: int) -> None:
        """Train one config to its end, unless that is done; say how it went.

        Raises:
            SystemExit: The training failed; its output is in ``train.log`` of its folder.
        """
        work_dir, started = self.work_dir / folder, time.time()
        if not (work_dir / 'finished').is_file():
            if self._last_checkpoint(config, folder).is_file():
                shutil.rmtree(work_dir)  # Stopped between its last checkpoint and its last validation.
            work_dir.mkdir(parents=True, exist_ok=True)
            print(f'      {folder}: training, see {work_dir / "train.log"}', flush=True)
            command = [sys.executable, ROOT / 'tools' / 'train.py', CONFIGS / f'{config}.py', '--resume']
            command += ['--work-dir', work_dir, '--cfg-options', *self._settings(config, seed)]
            environment = {**os.environ, 'CUDA_VISIBLE_DEVICES': '-1', 'OMP_NUM_THREADS': str(threads)}
            with (work_dir / 'train.log').open('a') as log:
                code = subprocess.run(
                    [str(part) for part in command], cwd=ROOT, env=environment, stdout=log, stderr=log, check=False
                ).returncode
            if code:
                raise SystemExit(f'{folder} failed with exit code {code}; see {work_dir / "train.log"}')
            (work_dir / 'finished').touch()
        accuracy = report.accuracy_curve(work_dir)[-1][1]
        seconds = time.time() - started
        print(f'[{next(self._numbers)}/{self.total}] {folder}: {accuracy:.2f} % ({seconds:.0f} s)', flush=True)

    def _settings(self, config: str, seed: int) -> list[str]:
        """What a run sets beside its config file."""
        settings = [f'randomness.seed={seed}', *self.options]
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            settings.append(f'{loader}.dataset.data_root={self.data_root}')
        if config in ('student_kd', 'student_serkd'):
            settings.append(f'model.teacher.checkpoint={self._last_checkpoint("teacher", "teacher")}')
        return settings

    def _last_checkpoint(self, config: str, folder: str) -> Path:
        """The last checkpoint of a run."""
        cfg = Config.fromfile(CONFIGS / f'{config}.py')
        cfg.merge_from_dict(_parsed(self.options))
        return self.work_dir / folder / f'epoch_{cfg.train_cfg.max_epochs}.pth'


def _parsed(options: list[str]) -> dict:
    """Options as mmengine's command lines read them."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    return parser.parse_args(['--cfg-options', *options] if options else []).cfg_options


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'quickstart')
    parser.add_argument('--data-root', type=Path, default=ROOT / 'data' / 'digits')
    parser.add_argument('--jobs', type=int, default=min(os.cpu_count() or 1, 4), help='trainings at a time')
    parser.add_argument('--cfg-options', nargs='+', default=[], help='settings for every run, as in tools/train.py')
    args = parser.parse_args()

    if not args.data_root.is_dir():
        make_digits.main(args.data_root)
    experiment = Experiment(args)
    print(f'{experiment.total} trainings, {args.jobs} at a time, below {experiment.work_dir}', flush=True)
    experiment.train('teacher', 'teacher', seed=0, threads=args.jobs)
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = [
            pool.submit(experiment.train, f'student_{student}', f'{student}_seed{seed}', seed, threads=1)
            for seed in args.seeds
            for student in reversed(STUDENTS)
        ]
        try:
            for run in runs:
                run.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    report.write(experiment.work_dir, STUDENTS, args.seeds)


if __name__ == '__main__':
    main()
