"""Growth of the angle loss with the number of tokens and of images: ours and the paper's listing, forward and backward.

    python tools/benchmarks/growth.py [--device cpu] [--dtype float32] [--tokens 16 49] [--images 1 4] [--out DIR]

Writes ``growth_<device>.json`` and ``.png``, and prints the exponent between the last two measurements of each series.
"""

import argparse
import math
from pathlib import Path

import machine
import matplotlib as mpl
import relation_losses

mpl.use('Agg')
import matplotlib.pyplot as plt

# Tokens x images: one grows, the other is constant. The listing is not measured where it would exceed LISTING_LIMIT bytes.
SERIES = {
    'tokens': {
        'cpu': [(tokens, 4) for tokens in (16, 49, 100, 196, 400)],
        'cuda': [(t, 32) for t in (16, 49, 100, 196, 400)],
    },
    'images': {'cpu': [(49, images) for images in (1, 4, 16, 64)], 'cuda': [(49, images) for images in (8, 32, 128, 512)]},
}
KINDS = ('ours', 'listing')
LISTING_LIMIT = {'cpu': 2**30, 'cuda': 24 * 2**30}


def run(device: str, dtype: str, seconds: float) -> dict[str, list[dict]]:
    """Measure every case of both series."""
    results: dict[str, list[dict]] = {}
    for series, cases in SERIES.items():
        results[series] = []
        for tokens, images in cases[device]:
            for kind in KINDS:
                differences = 4 * images * tokens**2 * relation_losses.TEACHER_CHANNELS  # Bytes of its largest tensor.
                if kind == 'listing' and differences > LISTING_LIMIT[device]:
                    continue
                settings = [kind, 'angle', tokens, images, device, dtype, seconds]
                found = machine.measure_separately(relation_losses.measure, settings, device)
                if 'failed' not in found:
                    results[series].append({'kind': kind, 'tokens': tokens, 'images': images, **found})
    return results


def table(results: dict[str, list[dict]]) -> str:
    """Return a Markdown table of time and memory by case, and the exponents."""
    lines = ['| grows | tokens | images | ours, ms | MiB | listing, ms | MiB |', '|' + ' --- |' * 7]
    for series, found in results.items():
        by_case: dict[tuple[int, int], dict[str, str]] = {}
        for result in found:
            cell = f'{1000 * result["seconds"]:.1f} | {result["bytes"] / 2**20:.0f}'
            by_case.setdefault((result['tokens'], result['images']), {})[result['kind']] = cell
        for (tokens, images), by_kind in by_case.items():
            cells = ' | '.join(by_kind.get(kind, '- | -') for kind in KINDS)
            lines.append(f'| {series} | {tokens} | {images} | {cells} |')
    exponents = [f'{kind} by {series}: {power(results[series], kind, series):.2f}' for series in results for kind in KINDS]
    return '\n'.join(lines) + f'\n\nExponent of the growth of time between the last two rows: {", ".join(exponents)}'


def power(found: list[dict], kind: str, series: str) -> float:
    """Return the exponent between the last two measurements of a kind."""
    *_, first, last = [result for result in found if result['kind'] == kind]
    return math.log(last['seconds'] / first['seconds']) / math.log(last[series] / first[series])


def plot(path: Path, results: dict[str, list[dict]]) -> None:
    """Plot time and memory over tokens and images."""
    figure, panels = plt.subplots(1, 4, figsize=(14, 3.2), layout='constrained')
    shown = [(series, *quantity) for series in results for quantity in (('seconds', 1e3, 'ms'), ('bytes', 2**-20, 'MiB'))]
    for axes, (series, name, unit, label) in zip(panels, shown, strict=True):
        for kind in KINDS:
            points = [
                (r[series], max(r[name], 2**16 * (name == 'bytes')) * unit) for r in results[series] if r['kind'] == kind
            ]
            axes.plot(*zip(*points, strict=True), marker='o', label=relation_losses.KINDS[kind])
        axes.set(xscale='log', yscale='log', xlabel=series, ylabel=label)
        ticks = sorted({result[series] for result in results[series]})
        axes.set_xticks(ticks, ticks)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].legend()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Measure, print and save the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    machine.add_arguments(parser)
    for series in SERIES:
        parser.add_argument(f'--{series}', nargs='+', type=int, help='two or more; by default those of the results')
    args = parser.parse_args()
    for series, cases in SERIES.items():
        if values := getattr(args, series):
            tokens, images = cases[args.device][0]
            cases[args.device] = [(value, images) if series == 'tokens' else (tokens, value) for value in values]
    about = machine.describe(args.device, args.dtype)
    results = run(args.device, args.dtype, args.seconds)
    machine.report(args.out / f'growth_{args.device}', about, results, table(results), plot)


if __name__ == '__main__':
    main()
