"""Compare training from a cache of the teacher's outputs with training with the teacher, over the same views.

    python tools/experiments/cached_training.py CONFIG [CONFIG ...] [--views 2] [--epochs 2] [--ranks 2] [--work-dir DIR]
        [--formats float32 float16 pca] [--random-teacher STD] [--cfg-options KEY=VALUE ...]

Makes a cache in each format, for all configs at once, trains each with the teacher and from each cache, and prints by how
much losses and final weights differ, the accuracies, and the times. ``--random-teacher`` gives the teacher random weights of
that standard deviation, for machines without a trained one. Writes ``results.md`` into the work folder.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from mmpretrain.registry import MODELS
from torch import nn

import serkd_mm  # noqa: F401
from serkd_mm.analysis import RunLog
from serkd_mm.config_files import read_config
from serkd_mm.model_sources import find_model

ROOT = Path(__file__).resolve().parents[2]
FORMATS = {
    'float32': ['--dtype', 'float32', '--tokens', 'full'],
    'float16': ['--dtype', 'float16', '--tokens', 'full'],
    'pca': ['--dtype', 'float16', '--tokens', 'pca'],
}
FIRST = 50
LIVE = ['model.teacher.cache=None', 'train_dataloader.dataset.cache=None']


def main() -> None:
    """Make the caches, train, and print the differences."""
    args = parse_arguments()
    args.work_dir.mkdir(parents=True, exist_ok=True)
    options = [*args.cfg_options, f'train_cfg.max_epochs={args.epochs}', 'log_processor.window_size=1']
    options += ['default_hooks.logger.interval=1', 'randomness.seed=0', f'train_cfg.val_interval={args.epochs}']
    if args.random_teacher is not None:
        path = args.work_dir / 'teacher.pth'
        save_random_teacher(args.configs[0], path, args.random_teacher)
        options.append(f'model.teacher.checkpoint={path}')
    seconds = {}
    for name in args.formats:
        folder = args.work_dir / f'cache_{name}'
        command = [*args.configs, '--out', folder, '--views', args.views, *FORMATS[name], '--cfg-options', *options]
        seconds[f'cache, {name}'] = run('cache_teacher.py', args.ranks, command, args.work_dir / f'cache_{name}.log')
    parts = []
    for config in args.configs:
        stem = Path(config).stem
        for name in ('live', *args.formats):
            source, more = (args.formats[0], ['--cfg-options', *LIVE]) if name == 'live' else (name, [])
            file = args.work_dir / f'cache_{source}' / ('train.py' if len(args.configs) == 1 else f'{stem}.py')
            command = [file, '--work-dir', args.work_dir / stem / name, *more]
            log = args.work_dir / f'{stem}_{name}.log'
            seconds[f'training {stem}, {name}'] = run('train.py', args.ranks, command, log)
        parts.append(f'## {stem}\n\n' + differences(args.work_dir / stem, args.formats, args.epochs))
    parts.append('\n'.join(f'- {name}: {value:.0f} s' for name, value in seconds.items()))
    parts.append(sums(seconds, args.formats))
    text = '\n\n'.join(parts)
    (args.work_dir / 'results.md').write_text(text + '\n')
    print(text)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='distillation configs with one teacher')
    parser.add_argument('--views', type=int, default=2)
    parser.add_argument('--epochs', type=int, default=2)
    parser.add_argument('--ranks', type=int, default=2, help='number of processes')
    parser.add_argument('--formats', nargs='+', choices=FORMATS, default=list(FORMATS))
    parser.add_argument('--random-teacher', type=float, metavar='STD', help='random weights of this standard deviation')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/cached_training'))
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='as in tools/train.py')
    return parser.parse_args()


def run(tool: str, ranks: int, arguments: list, log: Path) -> float:
    """Run a tool of this repository as ``ranks`` processes; return the seconds it took.

    Raises:
        SystemExit: It failed; its output is in ``log``.
    """
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={ranks}']
    command = [*launcher, ROOT / 'tools' / tool, '--launcher', 'pytorch', *arguments]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': os.environ.get('OMP_NUM_THREADS', '1')}
    start = time.perf_counter()
    with log.open('w') as file:
        code = subprocess.run(list(map(str, command)), env=environment, stdout=file, stderr=file, check=False).returncode
    if code:
        raise SystemExit(f'{tool} failed with exit code {code}; see {log}')
    return time.perf_counter() - start


def save_random_teacher(config: str, path: Path, std: float) -> None:
    """Save a teacher whose weight matrices are drawn with a given standard deviation."""
    torch.manual_seed(0)
    model = MODELS.build(find_model(read_config(config).model.teacher.model, 'model.teacher.model').config)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
    torch.save({'state_dict': model.state_dict()}, path)


def differences(work_dir: Path, formats: list[str], epochs: int) -> str:
    """Return a Markdown table of the largest differences from the live run, over all iterations."""
    live = RunLog(work_dir / 'live')
    weights = final_weights(work_dir / 'live', epochs)
    lines = [f'| cache | {" | ".join(live.terms)} | final weights |', '| --- ' * (len(live.terms) + 2) + '|']
    metrics = [f'live {accuracy(live)}']
    for name in formats:
        log = RunLog(work_dir / name)
        metrics.append(f'{name} {accuracy(log)}')
        cells = [
            f'{largest_difference(live, log, term, FIRST)}; {largest_difference(live, log, term)}' for term in live.terms
        ]
        changed = max(
            (final_weights(work_dir / name, epochs)[key] - value).abs().max().item() for key, value in weights.items()
        )
        lines.append(f'| {name} | {" | ".join(cells)} | {changed:.1e} |')
    note = (
        f'Largest difference of each loss relative to its value, over the first {FIRST} iterations and over all; training '
        'amplifies rounding. Largest absolute difference of all weights.'
    )
    return f'{len(live.train)} iterations. {note}\n\n' + '\n'.join(lines) + f'\n\nTop-1: {", ".join(metrics)}'


def accuracy(log: RunLog) -> str:
    """The last accuracy of a run."""
    values = log.metric('accuracy/top1')
    return f'{values[-1][1]:.2f} %' if values else 'not measured'


def sums(seconds: dict[str, float], formats: list[str]) -> str:
    """Compare the time with the teacher with that of a cache and the trainings from it."""
    whole = {name: sum(value for key, value in seconds.items() if key.endswith(f', {name}')) for name in ('live', *formats)}
    ratios = ', '.join(f'{name} {whole[name]:.0f} s ({whole["live"] / whole[name]:.2f} times as fast)' for name in formats)
    return f'All trainings with the teacher: {whole["live"]:.0f} s. The cache and the trainings from it: {ratios}.'


def largest_difference(live: RunLog, log: RunLog, term: str, first: int | None = None) -> str:
    """The largest relative difference of a loss over the first iterations."""
    pairs = [(one[term], other[term]) for one, other in zip(live.train, log.train, strict=True)][:first]
    return f'{max(abs(one - other) / abs(one) for one, other in pairs):.1e}'


def final_weights(work_dir: Path, epochs: int) -> dict[str, torch.Tensor]:
    """The floating-point entries of the last checkpoint."""
    state = torch.load(work_dir / f'epoch_{epochs}.pth', map_location='cpu', weights_only=True)['state_dict']
    return {name: value.double() for name, value in state.items() if value.is_floating_point()}


if __name__ == '__main__':
    main()
