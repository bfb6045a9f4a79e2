"""Tables and plots of experiments, from the logs and checkpoints of mmengine."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import torch

from serkd_mm.analysis import RunLog

mpl.use('Agg')
import matplotlib.pyplot as plt


@dataclass(frozen=True)
class Entry:
    """One row of a table.

    Attributes:
        title: Name of the model.
        folders: Work folders of its runs, one per seed.
    """

    title: str
    folders: Sequence[Path]

    def accuracies(self) -> list[float]:
        """Return the top-1 accuracy of each run after its last epoch, in percent."""
        return [accuracy_curve(folder)[-1][1] for folder in self.folders]


def table(entries: Sequence[Entry], with_time: bool = True) -> str:
    """Return a Markdown table: mean and sample standard deviation of the accuracy, parameters and, optionally, time."""
    header = ['model', 'top-1 (%)', 'spread', 'seeds', 'parameters', 's / epoch']
    rows = [header, ['---'] * len(header), *map(_row, entries)]
    return '\n'.join('| ' + ' | '.join(row if with_time else row[:-1]) + ' |' for row in rows)


def accuracy_curve(folder: Path) -> list[tuple[int, float]]:
    """Return epoch and top-1 accuracy of each validation of a run, which may have been resumed."""
    return RunLog(folder).metric('accuracy/top1')


def plot_curves(path: Path, title: str, entries: Sequence[Entry], teacher: Entry) -> None:
    """Plot accuracy over epochs: mean and range over the seeds."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout='constrained')
    for entry in entries:
        curves = [accuracy_curve(folder) for folder in entry.folders]
        epochs = [epoch for epoch, _ in curves[0]]
        values = list(zip(*([value for _, value in curve] for curve in curves), strict=True))
        axes.plot(epochs, [statistics.mean(value) for value in values], label=entry.title)
        axes.fill_between(epochs, [min(value) for value in values], [max(value) for value in values], alpha=0.2)
    axes.axhline(teacher.accuracies()[-1], color='gray', linestyle='--', label=teacher.title)
    axes.set(xlabel='epoch', ylabel='top-1 accuracy (%)', title=title)
    axes.legend(loc='lower right')
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def plot_scores(path: Path, groups: Mapping[str, Sequence[Entry]]) -> None:
    """Plot the last accuracy of every run as a dot and the mean of each entry as a line, one panel per group."""
    height = 0.9 + 0.34 * max(len(entries) for entries in groups.values())
    figure, panels = plt.subplots(1, len(groups), figsize=(5.5 * len(groups), height), layout='constrained', squeeze=False)
    for axes, (title, entries) in zip(panels[0], groups.items(), strict=True):
        draw_runs(axes, [entry.accuracies() for entry in entries])
        axes.set_yticks(range(len(entries)), [entry.title for entry in entries])
        axes.invert_yaxis()
        axes.set(xlabel='top-1 accuracy (%)', title=title)
        axes.grid(axis='x', alpha=0.3)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_runs(axes: plt.Axes, rows: Sequence[Sequence[float]]) -> None:
    """Draw each value of a row as a dot and their mean as a line."""
    for place, values in enumerate(rows):
        axes.plot(values, [place] * len(values), 'o', color='C0', alpha=0.6)
        axes.plot([statistics.mean(values)] * 2, [place - 0.3, place + 0.3], color='C1', linewidth=2)


def _row(entry: Entry) -> list[str]:
    accuracies = entry.accuracies()
    spread = f'{statistics.stdev(accuracies):.2f}' if len(accuracies) > 1 else '-'
    seconds = statistics.mean(RunLog(folder).seconds_per_epoch for folder in entry.folders)
    parameters = f'{_num_parameters(entry.folders[0]):,}'
    return [entry.title, f'{statistics.mean(accuracies):.2f}', spread, str(len(accuracies)), parameters, f'{seconds:.2f}']


def _num_parameters(folder: Path) -> int:
    """The number of values of the plain model in the last checkpoint of a run."""
    path = Path((folder / 'last_checkpoint').read_text().strip())
    state_dict = torch.load(path, map_location='cpu', weights_only=True)['state_dict']
    return sum(value.numel() for name, value in state_dict.items() if not name.startswith('distill.'))
