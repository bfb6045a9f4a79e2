"""Compare runs: a table of accuracy, time and memory, and curves of the accuracy and of every loss over epochs.

    python tools/compare.py WORK_DIR... [--names NAME...] [--metric accuracy/top1] [--out-dir DIR]

Reads the logs of mmengine. Runs may still be going on, and a resumed run counts as one. Prints the table, and writes
``compare.md`` and ``compare.png`` into DIR.
"""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from serkd_mm.analysis import RunLog
from serkd_mm.errors import one_line_errors

COLUMNS = 3


def main() -> None:
    """Print the table, and write it and the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dirs', nargs='+', type=Path, metavar='WORK_DIR', help='work folders of runs')
    parser.add_argument('--names', nargs='+', help='names of the runs; by default those of their folders')
    parser.add_argument('--metric', help='a metric of the validation; by default accuracy/top1, or else the first one')
    parser.add_argument('--out-dir', type=Path, default=Path('work_dirs/compare'), help='folder of the table and the curves')
    args = parser.parse_args()
    names = args.names or [folder.resolve().name for folder in args.work_dirs]
    if len(set(names)) != len(args.work_dirs):
        parser.error(f'--names: {len(args.work_dirs)} runs need as many different names, but got {names}')
    try:
        logs = {name: RunLog(folder) for name, folder in zip(names, args.work_dirs, strict=True)}
    except FileNotFoundError as error:
        parser.error(str(error))
    metric = find_metric(logs, args.metric, parser)
    page = table(logs, metric)
    print(page)
    args.out_dir.mkdir(parents=True, exist_ok=True)
    draw_curves(logs, metric, args.out_dir / 'compare.png')
    (args.out_dir / 'compare.md').write_text(f'{page}\n\n![curves](compare.png)\n')
    print(f'\nWrote {args.out_dir}/compare.md and compare.png')


def find_metric(logs: Mapping[str, RunLog], wanted: str | None, parser: argparse.ArgumentParser) -> str:
    """Return the wanted metric; by default top-1 accuracy, or else the first one."""
    metrics = list(dict.fromkeys(metric for log in logs.values() for metric in log.metrics))
    if wanted is not None and wanted not in metrics:
        parser.error(f'--metric: no run has measured {wanted!r}; there is {", ".join(metrics) or "nothing yet"}')
    return wanted or ('accuracy/top1' if 'accuracy/top1' in metrics or not metrics else metrics[0])


def table(logs: Mapping[str, RunLog], metric: str) -> str:
    """Return a Markdown table with a row for each run."""
    header = [
        'run',
        f'best {metric}',
        'at epoch',
        f'last {metric}',
        'at epoch',
        'last loss',
        's / epoch',
        'GPU memory (MiB)',
    ]
    rows = [header, ['---'] * len(header), *(row_of(name, log, metric) for name, log in logs.items())]
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in rows)


def row_of(name: str, log: RunLog, metric: str) -> list[str]:
    """Return the cells of a run; '-' for numbers that it does not have yet."""
    curve, losses = log.metric(metric), log.term('loss')
    best = max(curve, key=lambda point: point[1]) if curve else None
    row = [name]
    for point in (best, curve[-1] if curve else None):
        row += ['-', '-'] if point is None else [f'{point[1]:.2f}', str(point[0])]
    row.append(f'{losses[-1][1]:.4g}' if losses else '-')
    row.append('-' if log.seconds_per_epoch is None else f'{log.seconds_per_epoch:.2f}')
    return [*row, '-' if log.memory is None else str(log.memory)]


def draw_curves(logs: Mapping[str, RunLog], metric: str, file: Path) -> None:
    """Plot the metric and each loss of any run, one panel each."""
    terms = list(dict.fromkeys(term for log in logs.values() for term in log.terms))
    columns = min(COLUMNS, 1 + len(terms))
    rows = math.ceil((1 + len(terms)) / columns)
    figure = Figure(figsize=(4.2 * columns, 3 * rows), layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[1 + len(terms) :]:
        axis.set_axis_off()
    for axis, title in zip(axes.flat, [metric, *terms], strict=False):
        for number, (name, log) in enumerate(logs.items()):
            curve = log.metric(title) if title == metric else log.term(title)
            if curve:
                axis.plot(*zip(*curve, strict=True), color=f'C{number}', label=name)
        axis.set(title=title, xlabel='epoch')
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    figure.savefig(file, dpi=120)


if __name__ == '__main__':
    with one_line_errors():
        main()
