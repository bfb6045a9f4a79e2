"""The first look at a study: some methods of several students side by side, as a table and a figure."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from comparison_report import Comparison, draw_differences, format_difference
from report import plt


def summary_table(students: Mapping[str, Comparison], methods: Sequence[str], reference: str) -> str:
    """Return a Markdown table: for each student the accuracy of each method, its seeds, and its difference to a reference.

    Args:
        students: The comparison of each student by its title.
        methods: Titles of the rows, which all students have.
        reference: Title of the method that the others are compared with.
    """
    difference = f'difference to {reference}'
    titles = [title for student in students for title in (f'{student}: top-1 (%), seeds', difference)]
    rows = [['student trained with', *titles], ['---'] * (1 + len(titles))]
    for method in methods:
        cells = [cell for comparison in students.values() for cell in _cells(comparison, method, reference)]
        rows.append([method, *cells])
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in rows)


def plot_summary(path: Path, students: Mapping[str, Comparison], methods: Sequence[str], reference: str) -> None:
    """Plot one panel for each student: the difference of each method to a reference, with its interval.

    Args:
        path: The picture.
        students: As in :func:`summary_table`.
        methods: Titles of the rows.
        reference: Title of the method that the others are compared with.
    """
    size = (3 + 3.5 * len(students), 1 + 0.28 * len(methods))
    figure, panels = plt.subplots(
        1, len(students), figsize=size, layout='constrained', squeeze=False, sharex=True, sharey=True
    )
    for axes, (student, comparison) in zip(panels[0], students.items(), strict=True):
        draw_differences(axes, [comparison.difference(method, reference) for method in methods])
        axes.set(title=student, xlabel=f'points above {reference}, 95 % intervals')
        axes.grid(axis='x', alpha=0.3)
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _cells(comparison: Comparison, method: str, reference: str) -> list[str]:
    """Accuracy and difference of a method."""
    accuracy = statistics.mean(comparison.accuracies[method].values())
    return [f'{accuracy:.2f} ({len(comparison.right[method])})', format_difference(comparison.difference(method, reference))]
