"""Time and memory of the relation losses and superpixels: ours, the paper's listing, and RKD image by image.

    python tools/benchmarks/relation_losses.py [--device cpu] [--dtype float32] [--cases 49x16 196x2] [--out DIR]

A case is tokens x images. Each measurement is forward and backward, with 192 channels of the student and 768 of the teacher,
in a separate process on a CPU. If the number of tokens is a square, the step before the losses is measured too: clustering
four times as many tokens into this number of superpixels (cell 2). Extra memory is the growth of the peak memory of the
process or of the GPU's allocator. Writes ``relation_losses_<device>.json`` and ``.png``, and prints the ratios.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import machine
import matplotlib as mpl
import torch

mpl.use('Agg')
import matplotlib.pyplot as plt

STUDENT_CHANNELS, TEACHER_CHANNELS = 192, 768
KINDS = {'ours': 'serkd-mm', 'listing': "the paper's listing", 'rkd': 'RKD, image by image'}
MODULES = {'ours': 'serkd_mm.ops', 'listing': 'serkd_mm.ops.reference', 'rkd': 'rkd'}
ALTERNATIVES = {'angle': ('listing', 'rkd'), 'distance': ('listing', 'rkd'), 'superpixels': ('listing',)}
CASES = {'cpu': ['49x1', '49x4', '49x16', '196x1', '196x2'], 'cuda': ['49x128', '196x32', '196x128']}


def find(kind: str, loss: str) -> Callable:
    """Return the function that computes a loss of tokens ``(B, L, C_s)`` and ``(B, L, C_t)``."""
    module = import_module(MODULES[kind])
    if loss != 'superpixels':
        return getattr(module, f'{loss}_relation_loss')

    def mean_square(tokens: torch.Tensor) -> torch.Tensor:
        side = math.isqrt(tokens.shape[1])
        return module.superpixel_tokens(tokens.mT.unflatten(2, (side, side)), 2).square().mean()

    def both_sides(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            target = mean_square(teacher)
        return mean_square(student) + target

    return both_sides


def measure(kind: str, loss: str, num_tokens: int, batch: int, device: str, dtype: str, seconds: float) -> dict:
    """Return the loss, the median time of forward and backward in seconds, and the extra memory of one step in bytes."""
    function = find(kind, loss)
    torch.manual_seed(0)
    machine.keep_freed_memory()
    if loss == 'superpixels':
        num_tokens *= 4

    def tokens(channels: int, images: int) -> torch.Tensor:
        return torch.randn(images, num_tokens, channels, device=device).to(getattr(torch, dtype))

    def step(student: torch.Tensor, teacher: torch.Tensor) -> None:
        student.grad = None
        function(student, teacher).backward()
        machine.synchronize(device)

    small = [tokens(STUDENT_CHANNELS, 1)[:, :4].requires_grad_(), tokens(TEACHER_CHANNELS, 1)[:, :4]]
    step(*small)  # Loads libraries.
    student, teacher = tokens(STUDENT_CHANNELS, batch).requires_grad_(), tokens(TEACHER_CHANNELS, batch)
    before = machine.reset_peak(device)
    step(student, teacher)
    memory = machine.peak(device) - before
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        step(student, teacher)
        times.append(time.perf_counter() - start)
    return {'value': function(student, teacher).item(), 'seconds': sorted(times)[len(times) // 2], 'bytes': memory}


def run(cases: list[str], device: str, dtype: str, seconds: float) -> list[dict]:
    """Measure every case; a failed measurement has the entry 'failed'."""
    results = []
    for case in cases:
        num_tokens, batch = map(int, case.split('x'))
        for loss, others in ALTERNATIVES.items():
            if loss == 'superpixels' and math.isqrt(num_tokens) ** 2 != num_tokens:
                continue
            kinds = ('ours', *others)
            for kind in kinds:
                found = machine.measure_separately(measure, [kind, loss, num_tokens, batch, device, dtype, seconds], device)
                results.append({'kind': kind, 'loss': loss, 'tokens': num_tokens, 'images': batch, **found})
                print(f'  {loss}, {num_tokens} tokens, {batch} images, {KINDS[kind]}: {_summary(found)}', flush=True)
            _check_equal([result['value'] for result in results[-len(kinds) :] if 'value' in result], dtype)
    return results


def _check_equal(values: list[float], dtype: str) -> None:
    """Raise if the alternatives do not compute the same loss."""
    tolerance = 1e-3 if dtype == 'float32' else 5e-2
    if max(values) - min(values) > tolerance * max(values):
        raise SystemExit(f'The alternatives do not compute the same loss: {values}')


def _summary(found: dict) -> str:
    if 'failed' in found:
        return 'failed'
    return f'{1000 * found["seconds"]:.1f} ms, {found["bytes"] / 2**20:.1f} MiB'


def table(results: list[dict]) -> str:
    """Return a Markdown table of time and memory: absolute for ours, relative to ours for the alternatives."""
    lines = ['| loss | tokens | images | ours, ms | ours, MiB | listing, time | memory | RKD by image, time | memory |']
    lines.append('|' + ' --- |' * 9)
    cases: dict[tuple, dict] = {}
    for result in results:
        cases.setdefault((result['loss'], result['tokens'], result['images']), {})[result['kind']] = result
    for (loss, num_tokens, batch), found in cases.items():
        ours = found['ours']
        cells = [loss, num_tokens, batch, f'{1000 * ours["seconds"]:.1f}', f'{ours["bytes"] / 2**20:.1f}']
        for kind in ('listing', 'rkd'):
            cells += [_ratio(found.get(kind), ours, name) for name in ('seconds', 'bytes')]
        lines.append('| ' + ' | '.join(map(str, cells)) + ' |')
    return '\n'.join(lines)


def _ratio(other: dict | None, ours: dict, name: str) -> str:
    if other is None:
        return '-'
    if 'failed' in other:
        return 'failed'
    floor = 2**20 if name == 'bytes' else 0  # The measurement is not that precise.
    return f'{other[name] / max(ours[name], floor):.1f}x'


def plot(path: Path, results: list[dict]) -> None:
    """Plot time and memory of the angle loss, one group of bars per case."""
    angles = [result for result in results if result['loss'] == 'angle']
    cases = list(dict.fromkeys((result['tokens'], result['images']) for result in angles))
    figure, panels = plt.subplots(1, 2, figsize=(11, 4), layout='constrained')
    for axes, name, unit, label in ((panels[0], 'seconds', 1e3, 'ms'), (panels[1], 'bytes', 2**-20, 'extra memory, MiB')):
        for place, (kind, title) in enumerate(KINDS.items()):
            found = {(r['tokens'], r['images']): r.get(name, 0) * unit for r in angles if r['kind'] == kind}
            axes.bar([x + 0.27 * (place - 1) for x in range(len(cases))], [found[c] for c in cases], 0.25, label=title)
        axes.set_xticks(range(len(cases)), [f'{tokens} tokens\n{images} images' for tokens, images in cases])
        axes.set(yscale='log', ylabel=label, title='Angle loss, forward and backward')
        axes.grid(axis='y', alpha=0.3)
    panels[0].legend()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Measure, print and save the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    machine.add_arguments(parser)
    parser.add_argument('--cases', nargs='+', metavar='TOKENSxIMAGES', help='by default five on a CPU and three on a GPU')
    parser.add_argument('--measure', type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    about = machine.describe(args.device, args.dtype)
    results = run(args.cases or CASES[args.device], args.device, args.dtype, args.seconds)
    machine.report(args.out / f'relation_losses_{args.device}', about, results, table(results), plot)


if __name__ == '__main__':
    main()
