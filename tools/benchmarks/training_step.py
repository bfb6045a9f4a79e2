"""A training step of ``deit-ti_mae-b`` on labels, with logit KD and as SeRKD, beside timm's TokenDistillationTask.

    python tools/benchmarks/training_step.py [--device cpu] [--dtype float32] [--batch 8] [--out DIR]

A step is what the training loop does with loaded images: preprocess, mix, forward, backward, update. Steps of all kinds take
turns in one process, so that what disturbs one disturbs all; memory is measured in a process for each. The parts of SeRKD's
step are measured alone, with the backward pass of what has one; the student is what remains. Weights are random, which
changes no time. timm comes with ``pip install -e ".[benchmarks]"``; without it, its step is left out. Writes
``training_step_<device>.json`` and ``.png``, and prints the ratios.
"""

import argparse
import json
import logging
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import machine
import matplotlib as mpl
import torch

mpl.use('Agg')
import matplotlib.pyplot as plt

KINDS = {
    'labels': 'labels only',
    'kd': 'logit KD',
    'serkd': 'SeRKD',
    'timm': "timm's TokenDistillationTask (logit KD)",
}
CONFIGS = {'labels': 'deit-ti_mae-b_labels.py', 'kd': 'deit-ti_mae-b_kd.py', 'serkd': 'deit-ti_mae-b.py'}
PARTS = ('teacher', 'superpixels', 'losses', 'student')


def our_step(kind: str, device: str, dtype: str) -> tuple[torch.nn.Module, Callable]:
    """The model of one of our configs, and its training step."""
    from mmengine.config import Config  # noqa: PLC0415 (a process imports what it measures, and no more)
    from mmengine.optim import build_optim_wrapper  # noqa: PLC0415
    from mmpretrain.registry import MODELS  # noqa: PLC0415
    from mmpretrain.structures import DataSample  # noqa: PLC0415

    import serkd_mm  # noqa: F401, PLC0415

    config = Config.fromfile(machine.ROOT / 'configs' / 'serkd' / CONFIGS[kind])
    if 'teacher' in config.model:
        config.model.teacher.update(checkpoint=None, allow_random_teacher=True)
    config.model.data_preprocessor = config.data_preprocessor
    model = MODELS.build(config.model)
    model.init_weights()
    model.to(device).train()
    if dtype != 'float32':
        config.optim_wrapper.update(type='AmpOptimWrapper', dtype=dtype)
    optim_wrapper = build_optim_wrapper(model, config.optim_wrapper)

    def step(images: torch.Tensor, classes: list[int]) -> None:
        samples = [DataSample().set_gt_label(label) for label in classes]
        model.train_step({'inputs': list(images), 'data_samples': samples}, optim_wrapper)

    return model, step


def timm_step(device: str, dtype: str) -> Callable:
    """The training step of timm's task for the same architectures, with the same augmentation of batches."""
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


def steps(kinds: list[str], device: str, dtype: str, batch: int) -> tuple[dict[str, Callable], torch.nn.Module | None]:
    """A function without arguments for a step of each kind, on the same images, and SeRKD's model."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8, generator=generator)
    classes = torch.randint(0, 1000, (batch,), generator=generator).tolist()
    found, model = {}, None
    for kind in kinds:
        torch.manual_seed(0)
        if kind == 'timm':
            step = timm_step(device, dtype)
        else:
            own, step = our_step(kind, device, dtype)
            model = own if kind == 'serkd' else model
        found[kind] = _with_images(step, images, classes, device)
    return found, model


def _with_images(step: Callable, images: torch.Tensor, classes: list[int], device: str) -> Callable:
    def run() -> None:
        step(images, classes)
        machine.synchronise(device)

    return run


def peak_memory(kind: str, device: str, dtype: str, batch: int) -> dict[str, int]:
    """What a step of one kind holds at its peak beside what was there before the first, in bytes."""
    found, _ = steps([kind], device, dtype, batch)
    machine.keep_freed_memory()
    before = machine.reset_peak(device)
    for _ in range(2):
        found[kind]()
    return {'bytes': machine.peak(device) - before}


def take_turns(functions: dict[str, Callable], seconds: float) -> dict[str, list[float]]:
    """Seconds of each function, called in turns for ``seconds`` per function, and three times at least."""
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    end = time.perf_counter() + seconds * len(functions)
    while len(times[next(iter(times))]) < 3 or time.perf_counter() < end:
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return times


def parts_of(model: torch.nn.Module, device: str, dtype: str, batch: int) -> dict[str, Callable]:
    """Functions that compute the parts of SeRKD's step: the teacher, the views (superpixels) and the losses."""
    from serkd_mm.distillers.taps import Feature  # noqa: PLC0415

    images = torch.randn(batch, 3, 224, 224, device=device)
    mixed = torch.autocast(device, getattr(torch, dtype) if dtype != 'float32' else None, enabled=dtype != 'float32')
    with mixed:
        teacher = model.teacher(images)
        with model.student_taps.record((224, 224)) as student:
            model.student(images)
    student = {
        name: Feature(feature.tensor.detach().requires_grad_(), feature.image_size, feature.num_extra_tokens)
        for name, feature in student.items()
    }
    terms = model.distill
    pairs = {name: view(student[view.tap], teacher[view.tap]) for name, view in terms.views.items()}
    pairs = {name: (own.detach().requires_grad_(), other) for name, (own, other) in pairs.items()}
    pairs |= {name: (student[name].tensor, teacher[name].tensor) for name in student}
    gradients = {name: torch.randn_like(own) for name, (own, _) in pairs.items()}

    def run_teacher() -> None:
        with mixed:
            model.teacher(images)
        machine.synchronise(device)

    def run_superpixels() -> None:
        with mixed:
            tokens = {name: view(student[view.tap], teacher[view.tap])[0] for name, view in terms.views.items()}
        torch.autograd.backward(list(tokens.values()), [gradients[name] for name in tokens])
        machine.synchronise(device)

    def run_losses() -> None:
        with mixed:
            total = sum(loss(*pairs[terms.on[name]]) for name, loss in terms.losses.items())
        total.backward()
        machine.synchronise(device)

    return {'teacher': run_teacher, 'superpixels': run_superpixels, 'losses': run_losses}


def median(values: list[float]) -> float:
    """The middle value."""
    return sorted(values)[len(values) // 2]


def run(device: str, dtype: str, batch: int, seconds: float) -> dict:
    """Times and memory of every kind, and the shares of SeRKD's parts."""
    machine.keep_freed_memory()
    measured = [kind for kind in KINDS if kind != 'timm' or find_spec('timm')]
    functions, model = steps(measured, device, dtype, batch)
    times = take_turns(functions, seconds)
    # The ratio of steps that follow each other, which what comes and goes on a machine disturbs least.
    over_kd = {kind: median([a / b for a, b in zip(times[kind], times['kd'], strict=True)]) for kind in measured}
    shares = {name: median(values) for name, values in take_turns(parts_of(model, device, dtype, batch), seconds).items()}
    whole = median(times['serkd'])
    shares['student'] = whole - sum(shares.values())
    kinds = {
        kind: {
            'seconds': median(times[kind]),
            'over_kd': over_kd[kind],
            'steps': len(times[kind]),
            **machine.measure_apart(peak_memory, [kind, device, dtype, batch], device),
        }
        for kind in measured
    }
    return {'batch': batch, 'kinds': kinds, 'shares': {name: shares[name] / whole for name in PARTS}}


def table(results: dict) -> str:
    """Images per second, memory and the ratio to KD by kind; and the shares."""
    lines = ['| step | images / s | time, of logit KD | memory beside weights, MiB |', '| --- | --- | --- | --- |']
    for kind, found in results['kinds'].items():
        memory = f'{found["bytes"] / 2**20:.0f}' if 'bytes' in found else 'failed'
        images = results['batch'] / found['seconds']
        lines.append(f'| {KINDS[kind]} | {images:.1f} | {found["over_kd"]:.3f} | {memory} |')
    shares = ', '.join(f'{name} {100 * share:.1f} %' for name, share in results['shares'].items())
    return '\n'.join(lines) + f"\n\nOf SeRKD's step: {shares}"


def plot(path: Path, results: dict) -> None:
    """Images per second by kind, and the parts of SeRKD's step."""
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
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    machine.add_arguments(parser)
    parser.add_argument('--batch', type=int, help='images per step; 8 on a CPU and 128 on a GPU by default')
    parser.add_argument('--measure', type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable(logging.INFO)  # mmengine tells of every weight that it initialises.
    if args.measure:
        print(json.dumps(peak_memory(*args.measure)))
        return
    about = machine.describe(args.device, args.dtype)
    about['timm'] = version('timm') if find_spec('timm') else 'not installed'
    results = run(args.device, args.dtype, args.batch or (128 if args.device == 'cuda' else 8), args.seconds)
    machine.report(args.out / f'training_step_{args.device}', about, results, table(results), plot)


if __name__ == '__main__':
    main()
