"""Training step of ``deit-ti_mae-b`` by labels only, logit KD, SeRKD with its teacher and from a cache of the teacher's
outputs, and of timm's TokenDistillationTask.

    python tools/benchmarks/training_step.py [--device cpu] [--dtype float32] [--batch 8] [--out DIR] [--methods [kd serkd]]

A step is what the training loop does with loaded images: preprocess, mix, forward, backward, update. Steps of all kinds are
interleaved in one process, so that other load on the machine affects them equally. Memory is measured separately for each.
The step from a cache also reads its records from the disk; ``tools/cache_teacher.py`` makes the cache of generated pictures.
The time of a record is that of the teacher and of encoding its outputs.
The parts of SeRKD's step are measured alone, forward and, except for the teacher, backward; the student is the rest. Weights
are random, which does not affect the time. timm comes with ``pip install -e ".[benchmarks]"``; without it, its step is
skipped. Writes ``training_step_<device>.json`` and ``.png``, and prints the ratios.

With ``--methods``, the steps of all methods on this pair are measured instead, interleaved in the same way, and written to
``training_step_methods_<device>.json`` and ``.png``. ``--seconds`` is the time for each method. LEAP is measured at
the teacher's first and last block, without CKA, which is not computed in every iteration.
"""

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import cached_step
import machine
import matplotlib as mpl
import method_steps
import torch
from steps import generated_batch, interleave, our_step, with_images, with_labels

mpl.use('Agg')
import matplotlib.pyplot as plt

KINDS = {
    'labels': 'labels only',
    'kd': 'logit KD',
    'serkd': 'SeRKD',
    'cached': 'SeRKD from a cache',
    'timm': "timm's TokenDistillationTask (logit KD)",
}
FOLDER = machine.ROOT / 'configs' / 'serkd'
CONFIGS = {
    'labels': FOLDER / 'deit-ti_mae-b_labels.py',
    'kd': FOLDER / 'deit-ti_mae-b_kd.py',
    'serkd': FOLDER / 'deit-ti_mae-b.py',
}
EPOCHS, VIEWS = 300, (10, 50)
PARTS = ('teacher', 'superpixels', 'losses', 'student')


def timm_step(device: str, dtype: str) -> Callable:
    """Return the training step of timm's task with the same architectures and the same batch augmentation."""
    import timm  # noqa: PLC0415
    from timm.data import Mixup  # noqa: PLC0415
    from timm.loss import SoftTargetCrossEntropy  # noqa: PLC0415
    from timm.task import TokenDistillationTask  # noqa: PLC0415

    student = timm.create_model('deit_tiny_distilled_patch16_224').to(device)
    teacher = timm.create_model('vit_base_patch16_224', global_pool='avg').to(device)
    teacher.requires_grad_(False)
    task = TokenDistillationTask(student, teacher, SoftTargetCrossEntropy(), device=torch.device(device), verbose=False)
    task.to(device).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.05)
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=1000)

    def step(images: torch.Tensor, classes: list[int]) -> None:
        images = images.to(device).float().div_(255).sub_(task.student_mean).div_(task.student_std)
        images, targets = mixup(images, torch.tensor(classes, device=device))
        with torch.autocast(device, getattr(torch, dtype) if dtype != 'float32' else None, enabled=dtype != 'float32'):
            loss = task(images, targets)['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def steps(
    kinds: list[str], device: str, dtype: str, batch: int, folder: Path
) -> tuple[dict[str, Callable], torch.nn.Module | None]:
    """Return a function without arguments for a step of each kind, on the same images, and the model of SeRKD.

    The step from a cache has images of its own; ``folder`` holds them and the cache.
    """
    images, classes = generated_batch(batch)
    found, model = {}, None
    for kind in kinds:
        torch.manual_seed(0)
        if kind == 'cached':
            _, step = our_step(folder / 'cache' / 'train.py', device, dtype)
            found[kind] = cached_step.with_records(step, folder, device, batch)
        elif kind == 'timm':
            found[kind] = with_images(timm_step(device, dtype), images, classes, device)
        else:
            own, step = our_step(CONFIGS[kind], device, dtype)
            model = own if kind == 'serkd' else model
            found[kind] = with_images(with_labels(step), images, classes, device)
    return found, model


def peak_memory(kind: str, device: str, dtype: str, batch: int, folder: str) -> dict[str, int]:
    """Return by how many bytes two steps of one kind raise the peak memory, and the bytes of the weights."""
    machine.keep_freed_memory()
    before = machine.reset_peak(device)
    found, _ = steps([kind], device, dtype, batch, Path(folder))
    found[kind]()
    whole = machine.peak(device) - before
    before = machine.reset_peak(device)
    for _ in range(2):
        found[kind]()
    return {'bytes': machine.peak(device) - before, 'with_models': whole}


def parts_of(model: torch.nn.Module, device: str, dtype: str, batch: int) -> dict[str, Callable]:
    """Return functions that compute the parts of SeRKD's step: the teacher, the views (superpixels) and the losses."""
    images = torch.randn(batch, 3, 224, 224, device=device)
    mixed = torch.autocast(device, getattr(torch, dtype) if dtype != 'float32' else None, enabled=dtype != 'float32')
    objective = model.distill
    with mixed:
        student, teacher = model.extract_features(images)
        student = {
            tap: replace(feature, tensor=feature.tensor.detach().requires_grad_()) for tap, feature in student.items()
        }
        tokens = objective.tokens(student, teacher)
    pairs = {
        (view, tap): (own.detach().requires_grad_(), other)
        for view, by_tap in tokens.items()
        for tap, (own, other) in by_tap.items()
    }
    gradients = [torch.randn_like(own) for own, _ in pairs.values()]
    pairs |= {(tap, tap): (student[tap].tensor, teacher[tap].tensor) for tap in student}

    def run_teacher() -> None:
        with mixed:
            model.teacher(images)
        machine.synchronize(device)

    def run_superpixels() -> None:
        with mixed:
            tokens = objective.tokens(student, teacher)
        torch.autograd.backward([own for by_tap in tokens.values() for own, _ in by_tap.values()], gradients)
        machine.synchronize(device)

    def run_losses() -> None:
        with mixed:
            losses = [
                loss(*pairs[objective.source_of[name], tap])
                for name, by_tap in objective.losses.items()
                for tap, loss in by_tap.items()
            ]
        sum(losses).backward()
        machine.synchronize(device)

    return {'teacher': run_teacher, 'superpixels': run_superpixels, 'losses': run_losses}


def run(device: str, dtype: str, batch: int, seconds: float, folder: Path) -> dict:
    """Measure time and memory of every kind, and the shares of the parts of SeRKD's step."""
    machine.keep_freed_memory()
    measured = [kind for kind in KINDS if kind != 'timm' or find_spec('timm')]
    functions, model = steps(measured, device, dtype, batch, folder)
    functions['record'] = cached_step.record_maker(model, folder, device, dtype, batch)
    times = interleave(functions, seconds)
    # The median ratio of consecutive steps is least affected by other load on the machine.
    over_kd, over_labels = (
        {kind: median([a / b for a, b in zip(times[kind], times[other], strict=True)]) for kind in measured}
        for other in ('kd', 'labels')
    )
    shares = {name: median(values) for name, values in interleave(parts_of(model, device, dtype, batch), seconds).items()}
    whole = median(times['serkd'])
    shares['student'] = whole - sum(shares.values())
    kinds = {
        kind: {
            'seconds': median(times[kind]),
            'over_kd': over_kd[kind],
            'over_labels': over_labels[kind],
            'steps': len(times[kind]),
            **machine.measure_separately(peak_memory, [kind, device, dtype, batch, str(folder)], device),
        }
        for kind in measured
    }
    records = median(times['record'])
    return {'batch': batch, 'kinds': kinds, 'records': records, 'shares': {name: shares[name] / whole for name in PARTS}}


def table(results: dict) -> str:
    """Return a Markdown table of speed and memory by kind, and the shares of SeRKD's parts."""
    lines = [
        '| step | images / s | time relative to logit KD | time relative to labels only | memory of a step, MiB | with the '
        'models, MiB |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    for kind, found in results['kinds'].items():
        memory = [f'{found[name] / 2**20:.0f}' if name in found else 'failed' for name in ('bytes', 'with_models')]
        images = results['batch'] / found['seconds']
        ratios = f'{found["over_kd"]:.3f} | {found["over_labels"]:.3f}'
        lines.append(f'| {KINDS[kind]} | {images:.1f} | {ratios} | {" | ".join(memory)} |')
    shares = ', '.join(f'{name} {100 * share:.1f} %' for name, share in results['shares'].items())
    return '\n'.join(lines) + f"\n\nParts of SeRKD's step: {shares}\n\n{whole_trainings(results)}"


def whole_trainings(results: dict) -> str:
    """Return the time of whole trainings relative to that with the teacher, making the cache included."""
    live, cached = (EPOCHS * results['kinds'][kind]['seconds'] for kind in ('serkd', 'cached'))
    ratios = [f'{(cached + views * results["records"]) / live:.3f} with {views} views' for views in VIEWS]
    records = results['batch'] / results['records']
    return (
        f'Records made per second: {records:.1f}. {EPOCHS} epochs from a cache, its making included, relative to {EPOCHS} '
        f'epochs with the teacher: {", ".join(ratios)}'
    )


def plot(path: Path, results: dict) -> None:
    """Plot images per second by kind and the parts of SeRKD's step."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 3.2), layout='constrained')
    speeds = [results['batch'] / found['seconds'] for found in results['kinds'].values()]
    panels[0].barh([KINDS[kind] for kind in results['kinds']], speeds)
    panels[0].set(xlabel='images per second', title=f'Training step, batch {results["batch"]}')
    panels[0].invert_yaxis()
    panels[1].barh(list(results['shares']), [100 * share for share in results['shares'].values()])
    panels[1].set(xlabel='% of the step', title="Parts of SeRKD's step")
    panels[1].invert_yaxis()
    for axes in panels:
        axes.bar_label(axes.containers[0], fmt='%.1f', padding=2)
        axes.margins(x=0.12)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    """Measure, print and save the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    machine.add_arguments(parser)
    parser.add_argument('--batch', type=int, help='images per step; by default 8 on a CPU and 128 on a GPU')
    parser.add_argument(
        '--methods',
        nargs='*',
        choices=method_steps.METHODS,
        metavar='METHOD',
        help='compare the steps of methods instead: by default of all; kd, to which they are compared, is added',
    )
    parser.add_argument('--measure', type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable(logging.INFO)  # mmengine logs every weight that it initializes.
    if args.measure:
        print(json.dumps(peak_memory(*args.measure)))
        return
    about = machine.describe(args.device, args.dtype)
    about['timm'] = version('timm') if find_spec('timm') else 'not installed'
    batch = args.batch or (128 if args.device == 'cuda' else 8)
    if args.methods is not None:
        methods = list(dict.fromkeys(['kd', *args.methods])) if args.methods else list(method_steps.METHODS)
        results = method_steps.run(args.device, args.dtype, batch, args.seconds, methods)
        path = args.out / f'training_step_methods_{args.device}'
        machine.report(path, about, results, method_steps.table(results), method_steps.plot)
        return
    with TemporaryDirectory() as folder:
        cached_step.make_cache(Path(folder), CONFIGS['serkd'], batch)
        results = run(args.device, args.dtype, batch, args.seconds, Path(folder))
    machine.report(args.out / f'training_step_{args.device}', about, results, table(results), plot)


if __name__ == '__main__':
    main()
