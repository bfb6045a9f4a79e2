"""The quickstart's table and plot, read from mmengine's own logs and checkpoints."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import torch

mpl.use('Agg')
import matplotlib.pyplot as plt

TITLES = {'labels': 'student, labels only', 'kd': 'student, logit KD', 'serkd': 'student, SeRKD'}


def write(work_dir: Path, students: Sequence[str], seeds: Sequence[int]) -> None:
    """Print the table, and save it as ``results.md`` and the curves as ``results.png`` in ``work_dir``."""
    rows = [_row('teacher', [work_dir / 'teacher'])]
    rows += [_row(TITLES[student], _folders(work_dir, student, seeds)) for student in students]
    header = ['model', 'top-1 (%)', 'spread', 'seeds', 'parameters', 's / epoch']
    table = '\n'.join('| ' + ' | '.join(row) + ' |' for row in [header, ['---'] * len(header), *rows])
    note = (
        'Top-1 accuracy on the validation images after the last epoch: mean over the seeds, and sample standard deviation. '
        'One teacher; every student sees the same 100 training images. Parameters are those of the deployed model.'
    )
    text = f'# Quickstart: handwritten digits\n\n{table}\n\n{note}\n\n![accuracy](results.png)\n'
    (work_dir / 'results.md').write_text(text, encoding='utf-8')
    _plot(work_dir, students, seeds)
    print(f'\n{table}\n\n{note}\n\nSaved {work_dir / "results.md"} and {work_dir / "results.png"}')


def accuracy_curve(folder: Path) -> list[tuple[int, float]]:
    """Epoch and top-1 accuracy of each validation of a run, in order; a resumed run continues its curve."""
    curve = {entry['step']: entry['accuracy/top1'] for entry in _log(folder) if 'accuracy/top1' in entry}
    return sorted(curve.items())


def _log(folder: Path) -> list[dict]:
    """Every scalar that a run has logged, over all its starts."""
    files = sorted(folder.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def _folders(work_dir: Path, student: str, seeds: Sequence[int]) -> list[Path]:
    return [work_dir / f'{student}_seed{seed}' for seed in seeds]


def _row(title: str, folders: Sequence[Path]) -> list[str]:
    accuracies = [accuracy_curve(folder)[-1][1] for folder in folders]
    spread = f'{statistics.stdev(accuracies):.2f}' if len(accuracies) > 1 else '-'
    seconds = statistics.mean(_seconds_per_epoch(folder) for folder in folders)
    parameters = f'{_num_parameters(folders[0]):,}'
    return [title, f'{statistics.mean(accuracies):.2f}', spread, str(len(folders)), parameters, f'{seconds:.2f}']


def _seconds_per_epoch(folder: Path) -> float:
    """Mean time of an iteration, times the iterations of an epoch."""
    entries = [entry for entry in _log(folder) if 'loss' in entry]
    last = max(entries, key=lambda entry: entry['iter'])
    return statistics.mean(entry['time'] for entry in entries) * last['iter'] / last['epoch']


def _num_parameters(folder: Path) -> int:
    """Weights of the plain model in a run's last checkpoint."""
    path = Path((folder / 'last_checkpoint').read_text().strip())
    state_dict = torch.load(path, map_location='cpu', weights_only=True)['state_dict']
    return sum(value.numel() for name, value in state_dict.items() if not name.startswith('distill.'))


def _plot(work_dir: Path, students: Sequence[str], seeds: Sequence[int]) -> None:
    """Accuracy over epochs: mean over the seeds, and their range."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout='constrained')
    for student in students:
        curves = [accuracy_curve(folder) for folder in _folders(work_dir, student, seeds)]
        epochs = [epoch for epoch, _ in curves[0]]
        values = list(zip(*([value for _, value in curve] for curve in curves), strict=True))
        axes.plot(epochs, [statistics.mean(value) for value in values], label=TITLES[student])
        axes.fill_between(epochs, [min(value) for value in values], [max(value) for value in values], alpha=0.2)
    axes.axhline(accuracy_curve(work_dir / 'teacher')[-1][1], color='gray', linestyle='--', label='teacher')
    axes.set(xlabel='epoch', ylabel='top-1 accuracy (%)', title='Handwritten digits, 10 labelled images per class')
    axes.legend(loc='lower right')
    axes.grid(alpha=0.3)
    figure.savefig(work_dir / 'results.png', dpi=150)
    plt.close(figure)
