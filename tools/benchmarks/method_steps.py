"""Cost of a step of every method on the pair of ``deit-ti_mae-b``, for ``training_step.py --methods``."""

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import machine
import matplotlib as mpl
import torch
from steps import generated_batch, interleave, our_step, with_images, with_labels

mpl.use('Agg')
import matplotlib.pyplot as plt

PAIR = 'deit-ti_mae-b'
_BLOCK = 'backbone.layers[{}] | backbone.ln2'
METHODS = {
    'labels': ('labels only', '_labels', {}),
    'kd': ('KD', '_kd', {}),
    'dist': ('DIST', '_dist', {}),
    'dkd': ('DKD', '_dkd', {}),
    'nkd': ('NKD', '_nkd', {}),
    'cskd': ('CSKD', '_cskd', {}),
    'fitnet': ('FitNet', '_fitnet', {}),
    'vitkd': ('ViTKD', '_vitkd', {}),
    'rkd': ('RKD', '_rkd', {}),
    'rrd': ('RRD', '_rrd', {}),
    'sekd': ('SEKD', '_sekd', {}),
    'serkd': ('SeRKD', '', {}),
    'patient': ('patient teacher', '_patient', {}),
    'leap-first': ('LEAP, first block', '_leap', {'model.teacher.taps.patches': _BLOCK.format(0)}),
    'leap-last': ('LEAP, last block', '_leap', {'model.teacher.taps.patches': _BLOCK.format(-1)}),
}
"""Label, end of the name of the config, and settings that replace those of the config."""


def config_of(method: str) -> Path:
    """Return the config of a method."""
    return machine.ROOT / 'configs' / 'serkd' / f'{PAIR}{METHODS[method][1]}.py'


def method_steps(methods: list[str], device: str, dtype: str, batch: int) -> dict[str, Callable]:
    """Return a function without arguments for a step of each method, on the same images; teachers share their weights."""
    images, classes = generated_batch(batch)
    found, weights = {}, None
    for method in methods:
        torch.manual_seed(0)
        model, step = our_step(config_of(method), device, dtype, METHODS[method][2])
        if teacher := getattr(model, 'teacher', None):
            weights = weights or list(teacher.model.to(device).parameters())
            for own, shared in zip(teacher.model.parameters(), weights, strict=True):
                own.data = shared.data
        found[method] = with_images(with_labels(step), images, classes, device)
    return found


def peak_memory(method: str, device: str, dtype: str, batch: int) -> dict[str, int]:
    """Return by how many bytes two steps of one method raise the peak memory."""
    machine.keep_freed_memory()
    (step,) = method_steps([method], device, dtype, batch).values()
    step()
    return {'bytes': extra_memory(step, device)}


def extra_memory(step: Callable, device: str) -> int:
    """Return by how many bytes two steps raise the peak memory."""
    before = machine.reset_peak(device)
    for _ in range(2):
        step()
    return machine.peak(device) - before


def run(device: str, dtype: str, batch: int, seconds: float, methods: list[str]) -> dict:
    """Measure time and memory of a step of each method.

    Args:
        device: 'cpu' or 'cuda'.
        dtype: Of autocast; 'float32' for none.
        batch: Images of a step.
        seconds: Time for each method.
        methods: Keys of ``METHODS``, with 'kd'.
    """
    machine.keep_freed_memory()
    functions = method_steps(methods, device, dtype, batch)
    times = interleave(functions, seconds)
    found = {}
    for method, own in times.items():
        # Ratios within a round of all methods are least affected by other load on the machine.
        over_kd = sorted(a / b for a, b in zip(own, times['kd'], strict=True))
        found[method] = {
            'seconds': median(own),
            'over_kd': median(over_kd),
            'quartiles': quantiles(over_kd, method='inclusive')[::2],
            'steps': len(own),
            **(
                {'bytes': extra_memory(functions[method], device)}  # Beyond what all methods hold.
                if device == 'cuda'
                else machine.measure_separately(peak_memory, [method, device, dtype, batch], device)
            ),
        }
    return {'batch': batch, 'pair': PAIR, 'methods': found}


def table(results: dict) -> str:
    """Return a Markdown table of time and memory by method."""
    lines = [
        '| step | images / s | time relative to KD | middle half of the rounds | memory of a step, MiB |',
        '| --- | --- | --- | --- | --- |',
    ]
    for method, found in results['methods'].items():
        memory = f'{found["bytes"] / 2**20:.0f}' if 'bytes' in found else 'failed'
        low, high = found['quartiles']
        speed = f'{results["batch"] / found["seconds"]:.1f} | {found["over_kd"]:.3f} | {low:.3f} to {high:.3f}'
        lines.append(f'| {METHODS[method][0]} | {speed} | {memory} |')
    return '\n'.join(lines)


def plot(path: Path, results: dict) -> None:
    """Plot the time of a step relative to logit KD, and its memory, by method."""
    labels = [METHODS[method][0] for method in results['methods']]
    columns = {
        'time of a step relative to KD': ('%.2f', [found['over_kd'] for found in results['methods'].values()]),
        'memory of a step, MiB': ('%.0f', [found.get('bytes', 0) / 2**20 for found in results['methods'].values()]),
    }
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.6), layout='constrained')
    for axes, (title, (number, values)) in zip(panels, columns.items(), strict=True):
        axes.bar_label(axes.barh(labels, values), fmt=number, padding=2)
        axes.set(title=title)
        axes.invert_yaxis()
        axes.margins(x=0.12)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Print the memory of a step of one method, for ``machine.measure_separately``."""
    parser = argparse.ArgumentParser(description=f'{__doc__} Alone it measures the memory of one method.')
    parser.add_argument('--measure', type=json.loads, metavar='JSON', help='arguments of peak_memory, a list')
    args = parser.parse_args()
    if args.measure is None:
        parser.error('start training_step.py --methods, or set --measure')
    logging.disable(logging.INFO)
    print(json.dumps(peak_memory(*args.measure)))


if __name__ == '__main__':
    main()
