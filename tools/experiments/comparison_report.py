"""Table and figure of paired differences, from the logs and the predictions of each run."""

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import report
from comparison import Difference, paired_difference, residual_variance
from report import plt

PREDICTIONS = 'predictions.txt'
TOLERANCE = 0.1  # In points: a prediction that ties may differ between two evaluations of a checkpoint.


class Comparison:
    """The methods of one student, trained with the same seeds and validated on the same images.

    Args:
        methods: Work folders of the runs of each method by its title, in the order of the table. Their names end with
            ``_seed{n}``. Each holds mmengine's log and ``predictions.txt``: the class that is predicted for each validation
            image after the last epoch, one a line, in the order of the data set.
        labels: True class of each validation image.
        references: Titles of the methods that the others are compared with.

    Raises:
        ValueError: A folder, a file or a reference does not fit; the message names it.
        FileNotFoundError: A run has no log or no predictions.
    """

    def __init__(self, methods: Mapping[str, Sequence[Path]], labels: Sequence[int], references: Sequence[str]) -> None:
        unknown = [title for title in references if title not in methods]
        if unknown:
            raise ValueError(f'references: {unknown[0]!r} is none of the methods: {", ".join(methods)}')
        self.references = list(references)
        self.right = {title: _right_by_seed(title, folders, np.asarray(labels)) for title, folders in methods.items()}
        self.accuracies = {
            title: {seed: 100 * float(right.mean()) for seed, right in runs.items()} for title, runs in self.right.items()
        }
        self.variance, self.freedom = residual_variance(self.accuracies) or (None, 0)

    def difference(self, method: str, reference: str) -> Difference | None:
        """Return ``method - reference``; None for itself, or if they have no seed in common."""
        if method == reference or not self.right[method].keys() & self.right[reference].keys():
            return None
        return paired_difference(self.right[method], self.right[reference], self.variance, self.freedom)

    def table(self) -> str:
        """Return a Markdown table: the accuracy of each method, and its difference to each reference."""
        header = ['method', 'top-1 (%)', 'spread', 'by seed', *(f'difference to {title}' for title in self.references)]
        rows = [header, ['---'] * len(header), *map(self._row, self.right)]
        return '\n'.join('| ' + ' | '.join(row) + ' |' for row in rows)

    def note(self) -> str:
        """Return how to read the table, with the spread that its intervals are based on."""
        text = (
            'Top-1 accuracy after the last epoch: mean and sample standard deviation over the seeds. Differences are in '
            'percentage points over the seeds that both methods have'
        )
        differences = (self.difference(method, title) for method in self.right for title in self.references)
        intervals = sum(difference is not None and difference.low is not None for difference in differences)
        if not intervals:
            return f'{text}; there are too few runs for intervals.'
        return (
            f'{text}, with 95 % intervals for other seeds and other images of the same kind. The spread of a run apart from '
            f'method and seed is taken as equal for all methods: {self.variance**0.5:.2f} points ({self.freedom} degrees of '
            'freedom). Where a method varies more, its intervals are too narrow; where two vary together, that of their '
            f'difference is too wide. Each of the {intervals} intervals stands alone: about one in twenty misses its true '
            'difference.'
        )

    def _row(self, method: str) -> list[str]:
        accuracies = list(self.accuracies[method].values())
        spread = f'{statistics.stdev(accuracies):.2f}' if len(accuracies) > 1 else '-'
        differences = [format_difference(self.difference(method, title)) for title in self.references]
        by_seed = ', '.join(f'{accuracy:.2f}' for accuracy in accuracies)
        return [method, f'{statistics.mean(accuracies):.2f}', spread, by_seed, *differences]


def plot_comparisons(path: Path, students: Mapping[str, Comparison]) -> None:
    """Plot one row of panels for each student: the accuracy of each run, and the differences to each reference.

    Args:
        path: The picture.
        students: The comparison of each student by its title.
    """
    columns = 1 + max(len(comparison.references) for comparison in students.values())
    heights = [1 + 0.28 * len(comparison.right) for comparison in students.values()]
    figure, rows = plt.subplots(
        len(students),
        columns,
        figsize=(2.2 + 3 * columns, sum(heights)),
        height_ratios=heights,
        layout='constrained',
        squeeze=False,
    )
    for panels, (title, comparison) in zip(rows, students.items(), strict=True):
        methods = list(comparison.right)
        used = 1 + len(comparison.references)
        report.draw_runs(panels[0], [list(runs.values()) for runs in comparison.accuracies.values()])
        panels[0].set(title=title, xlabel='top-1 accuracy (%)')
        for axes, reference in zip(panels[1:used], comparison.references, strict=True):
            draw_differences(axes, [comparison.difference(method, reference) for method in methods])
            axes.set(title=f'difference to {reference}', xlabel='percentage points')
        for axes in panels[:used]:
            axes.set_yticks(range(len(methods)), methods if axes is panels[0] else [''] * len(methods))
            axes.set_ylim(len(methods) - 0.5, -0.5)
            axes.title.set_size('medium')
            axes.grid(axis='x', alpha=0.3)
        for axes in panels[used:]:
            axes.set_axis_off()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_differences(axes: plt.Axes, differences: Sequence[Difference | None]) -> None:
    """Draw each difference as a dot with its interval; a hollow dot has none."""
    axes.axvline(0, color='gray', linewidth=1)
    for place, difference in enumerate(differences):
        if difference is None:
            continue
        has_interval = difference.low is not None
        axes.plot(difference.mean, place, 'o', color='C0', fillstyle='full' if has_interval else 'none')
        if has_interval:
            axes.plot([difference.low, difference.high], [place, place], color='C0', linewidth=1.5)


def format_difference(difference: Difference | None) -> str:
    """A cell of the table: the mean, and the interval if there is one."""
    if difference is None:
        return '-'
    interval = '' if difference.low is None else f' [{difference.low:+.2f}, {difference.high:+.2f}]'
    return f'{difference.mean:+.2f}{interval}'


def _right_by_seed(title: str, folders: Sequence[Path], labels: np.ndarray) -> dict[int, np.ndarray]:
    """Which images each run of a method has right, by seed."""
    runs = {}
    for folder in map(Path, folders):
        found = re.search(r'_seed(\d+)$', folder.name)
        if found is None:
            raise ValueError(f'{folder}: the name of the folder of a run must end with _seed and a number')
        seed = int(found[1])
        if seed in runs:
            raise ValueError(f'{folder}: {title!r} has two runs with this seed')
        runs[seed] = _predictions(folder, len(labels)) == labels
        _check_accuracy(folder, 100 * float(runs[seed].mean()))
    if not runs:
        raise ValueError(f'{title!r} has no runs')
    return dict(sorted(runs.items()))


def _predictions(folder: Path, num_images: int) -> np.ndarray:
    """The predicted class of each validation image of a run."""
    path = folder / PREDICTIONS
    lines = path.read_text(encoding='utf-8').split()
    if not all(line.isdecimal() for line in lines):
        raise ValueError(f'{path}: each line must be the number of a class')
    if len(lines) != num_images:
        raise ValueError(f'{path}: {len(lines)} predictions for {num_images} validation images')
    return np.array(lines, dtype=np.int64)


def _check_accuracy(folder: Path, accuracy: float) -> None:
    """Raise unless the predictions have the accuracy that the run has logged last."""
    curve = report.accuracy_curve(folder)
    if not curve:
        raise ValueError(f'{folder}: the run has logged no validation')
    logged = curve[-1][1]
    if abs(accuracy - logged) > TOLERANCE:
        raise ValueError(
            f'{folder / PREDICTIONS}: {accuracy:.2f} % are right, but the last validation has logged {logged:.2f} %: they '
            'are of another checkpoint, or their order is not that of the labels'
        )
