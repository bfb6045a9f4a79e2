"""Checks of a GPU for run_all.py: the machine, the angle kernel, what replaces it, and training steps in bfloat16.

    python tools/benchmarks/gpu_checks.py CHECK [--device cpu] [--config FILE] [--quick] [--out FILE]

machine   describes the device and the versions of the packages.
kernel    compares the Triton kernel with PyTorch on the device: value and gradient of the angle loss, with close tokens in
          half of the images; equal bits when computed again; milliseconds. Without a GPU by Triton's interpreter, not timed.
fallback  compares the loss without the kernel with the reference: by SERKD_MM_TRITON=0, and with a kernel that cannot be
          compiled because Triton's cache folder cannot be written, which one warning reports.
pipeline  takes one training step of a config with a random teacher: losses and gradient in bfloat16 against float32 and, on
          a GPU, in float32 against float32 on the CPU. Then measures the peak memory of steps at the config's batch size.

Ends with an error if a check fails; the numbers are in FILE all the same.
"""

import argparse
import gc
import json
import logging
import os
import random
import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

if 'fallback' in sys.argv:  # Read when Triton is imported: below a file there is no folder.
    os.environ['TRITON_CACHE_DIR'] = str(Path(__file__) / 'cache')

import machine
import numpy as np
import torch
from steps import generated_batch, interleave, our_step, with_labels
from torch.optim.optimizer import register_optimizer_step_pre_hook

PACKAGES = (
    'torchvision',
    'mmengine',
    'mmcv',
    'mmcv-lite',
    'mmpretrain',
    'onedl-mmengine',
    'onedl-mmpretrain',
    'timm',
)
# Largest errors: of a value relative to it, and of the gradient of an image relative to its largest entry.
VALUE, GRADIENT = 1e-5, 1e-4


class Tolerance(NamedTuple):
    """Largest relative error of every loss and of the gradient's norm, and the smallest cosine between the gradients."""

    loss: float
    norm: float
    cosine: float


# Some ten times the differences on a CPU, which were the larger ones of both configs.
TOLERANCES = {'bfloat16': Tolerance(0.01, 0.03, 0.995), 'cpu': Tolerance(1e-3, 2e-3, 0.999)}


class Step(NamedTuple):
    """Losses by name, and the gradient by parameter, on the CPU."""

    losses: dict[str, float]
    gradient: dict[str, torch.Tensor]


def check_machine(args: argparse.Namespace) -> dict[str, Any]:
    """Describe the device and the packages.

    Raises:
        SystemExit: There is no such device.
    """
    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    if device == 'cuda' and not torch.cuda.is_available():
        raise SystemExit(f'--device cuda: torch {torch.__version__} finds no GPU')
    about = {'kind': device, **machine.describe(device, 'bfloat16' if device == 'cuda' else 'float32')}
    for package in PACKAGES:
        try:
            about[package] = version(package)
        except PackageNotFoundError:
            continue
    if find_spec('triton'):  # Some builds of torch bring it under another name.
        about['triton'] = import_module('triton').__version__
    if device == 'cuda':
        properties = torch.cuda.get_device_properties(0)
        about |= {
            'gpus': torch.cuda.device_count(),
            'memory': f'{properties.total_memory / 2**30:.0f} GiB',
            'capability': f'sm_{properties.major}{properties.minor}',
            'cuda': torch.version.cuda or f'hip {torch.version.hip}',
        }
    return about


def _tokens(num_tokens: int, batch: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of a student and a teacher; every second image has two close ones."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(batch, num_tokens, channels, generator=generator) for channels in (192, 768))
    student[::2, 1] = student[::2, 0] * (1 + 1e-4)
    return student.to(device), teacher.to(device)


def _angle_loss(setting: str, student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and gradient of the angle loss with a setting of SERKD_MM_TRITON, on the CPU in float64."""
    from serkd_mm.ops import angle_relation_loss  # noqa: PLC0415 (Triton reads its environment on import)

    os.environ['SERKD_MM_TRITON'] = setting
    return _value_and_gradient(angle_relation_loss, student, teacher)


def _value_and_gradient(loss: Callable, student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    student = student.detach().requires_grad_()
    value = loss(student, teacher)
    value.backward()
    return value.detach().double().cpu(), student.grad.double().cpu()


def _errors(actual: tuple[torch.Tensor, torch.Tensor], expected: tuple[torch.Tensor, torch.Tensor]) -> tuple[float, float]:
    """Errors of value and gradient as of VALUE and GRADIENT."""
    value, gradient = ((a - e).abs() for a, e in zip(actual, expected, strict=True))
    largest = gradient.amax(dim=(1, 2)) / expected[1].abs().amax(dim=(1, 2))
    return (value / expected[0].abs()).item(), largest.max().item()


def check_kernel(args: argparse.Namespace) -> dict[str, Any]:
    """Compare the kernel with PyTorch on the device, and measure both on a GPU.

    Raises:
        SystemExit: The kernel does not run, differs, or is not deterministic.
    """
    from serkd_mm.ops import angle_relation  # noqa: PLC0415

    on_gpu = args.device == 'cuda'
    setting = 'auto' if on_gpu else '1'
    os.environ['SERKD_MM_TRITON'] = setting
    warnings.simplefilter('always')  # One has the reason if the kernel does not run.
    if not angle_relation.use_triton(torch.zeros(1, device=args.device)):
        raise SystemExit('the kernel does not run on this GPU; the warning in the log has the reason')
    found, wrong = {}, []
    for num_tokens in (49, 64, 196) if on_gpu else (9, 17):
        sides = _tokens(num_tokens, 32 if on_gpu else 2, args.device)
        first, second, pytorch = (_angle_loss(choice, *sides) for choice in (setting, setting, '0'))
        value, gradient = _errors(first, pytorch)
        repeats = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        found |= {f'{num_tokens} tokens, error of the value': value, f'{num_tokens} tokens, of the gradient': gradient}
        if not (value <= VALUE and gradient <= GRADIENT and repeats):
            wrong.append(f'{num_tokens} tokens: errors {value:.1e} and {gradient:.1e}, equal when repeated: {repeats}')
    args.save(found)
    if wrong:
        raise SystemExit(f'the kernel is not PyTorch within {VALUE} and {GRADIENT}: {"; ".join(wrong)}')
    if on_gpu:
        for num_tokens in (49, 196):
            found |= _kernel_times(num_tokens, 16 if args.quick else 128, 0.2 if args.quick else 1.0)
    return found


def _kernel_times(num_tokens: int, batch: int, seconds: float) -> dict[str, float]:
    """Milliseconds of forward and backward by kernel and by PyTorch, and of the sums over angles alone."""
    from serkd_mm.ops import angle_relation_loss  # noqa: PLC0415
    from serkd_mm.ops.angle_relation_triton import angle_sums  # noqa: PLC0415

    student, teacher = _tokens(num_tokens, batch, 'cuda')
    squared = torch.cdist(student, student).square()
    inverse = squared.rsqrt().masked_fill(squared == 0, 0.0)

    def step(setting: str) -> None:
        os.environ['SERKD_MM_TRITON'] = setting
        angle_relation_loss(student.detach().requires_grad_(), teacher).backward()
        torch.cuda.synchronize()

    def sums() -> None:
        angle_sums(squared, squared, inverse, inverse)
        torch.cuda.synchronize()

    functions = {'kernel': partial(step, 'auto'), 'PyTorch': partial(step, '0'), 'sums alone': sums}
    times = {name: 1e3 * median(found) for name, found in interleave(functions, seconds).items()}
    where = f'{num_tokens} tokens x {batch} images'
    found = {f'{where}, {name}, ms': time for name, time in times.items()}
    return {**found, f'{where}, PyTorch / kernel': times['PyTorch'] / times['kernel']}


def check_fallback(args: argparse.Namespace) -> dict[str, Any]:
    """Compute the loss without the kernel, and compare with the reference on the CPU.

    Raises:
        SystemExit: The loss differs, or a kernel that does not run is not reported exactly once.
    """
    os.environ.pop('TRITON_INTERPRET', None)
    from serkd_mm.ops import angle_relation, reference  # noqa: PLC0415

    student, teacher = _tokens(17, 4, args.device)
    expected = _value_and_gradient(reference.angle_relation_loss, student.double().cpu(), teacher.double().cpu())
    found = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        for name, setting in {'SERKD_MM_TRITON=0': '0', 'a kernel that does not run': 'auto'}.items():
            value, gradient = _errors(_angle_loss(setting, student, teacher), expected)
            found |= {f'{name}: error of the value': value, f'{name}: of the gradient': gradient}
        runs = [angle_relation.triton_runs(student.device) for _ in range(2)]
    messages = [str(warning.message) for warning in caught if 'kernel of the angle loss' in str(warning.message)]
    print(*messages, sep='\n')
    args.save(found)
    if runs != [False, False] or len(messages) != 1:
        raise SystemExit(f'a kernel that cannot be compiled was reported {len(messages)} times, not once; it runs: {runs}')
    if not all(error <= GRADIENT for error in found.values()):
        raise SystemExit(f'without the kernel, the loss is not that of the reference: {found}')
    return found


def check_pipeline(args: argparse.Namespace) -> dict[str, Any]:
    """Compare one training step in bfloat16 with float32, and measure the memory of steps.

    Raises:
        SystemExit: A loss or the gradient differs by more than its tolerance.
    """
    torch.backends.cudnn.allow_tf32 = False  # Else float32 convolutions have 10 bits, and with some settings products too.
    torch.set_float32_matmul_precision('highest')
    on_gpu, found, wrong = args.device == 'cuda', {}, []
    batch = 16 if on_gpu else 2
    expected = one_step(args.config, args.device, 'float32', batch)
    pairs = {'bfloat16': (one_step(args.config, args.device, 'bfloat16', batch), expected)}
    if on_gpu:
        pairs['cpu'] = (expected, one_step(args.config, 'cpu', 'float32', batch))
    for name, (one, other) in pairs.items():
        measured = compare(one, other)
        title = 'bfloat16 / float32' if name == 'bfloat16' else 'GPU / CPU in float32'
        found |= {f'{title}, {what}': number for what, number in measured.items()}
        most = TOLERANCES[name]
        found[f'{title}, allowed'] = f'losses {most.loss}, norm {most.norm}, 1 - cosine {1 - most.cosine:.3g}'
        wrong += [f'{title}, {message}' for message in beyond(measured, most)]
        if name == 'bfloat16' and max(measured.values()) < 1e-6:
            wrong.append('bfloat16 equals float32, so autocast was off')
    args.save(found)
    if wrong:
        raise SystemExit('; '.join(wrong))
    return found | peak_memory(args.config, args.device, args.quick)


def one_step(config: Path, device: str, dtype: str, batch: int) -> Step:
    """Take one step with seeded weights and images.

    Weights that start as zero get small random numbers: behind them the gradient would be zero. The gradient is that which
    the optimizer sees, without clipping.

    Raises:
        SystemExit: The step leaves weights unchanged, or not finite.
    """
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    model, step = our_step(config, device, dtype, {'optim_wrapper.clip_grad': None})
    generator = torch.Generator().manual_seed(1)
    weights = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for parameter in weights.values():
        if parameter.ndim > 1 and not parameter.any():
            parameter.data.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    before = {name: parameter.detach().cpu().clone() for name, parameter in weights.items()}
    gradient = {}

    def keep_gradient(*_: Any) -> None:
        gradient.update({name: p.grad.float().cpu().clone() for name, p in weights.items() if p.grad is not None})

    handle = register_optimizer_step_pre_hook(keep_gradient)
    try:
        losses = with_labels(step)(*generated_batch(batch))
    finally:
        handle.remove()
    changed = sum(not torch.equal(before[name], parameter.detach().cpu()) for name, parameter in weights.items())
    finite = all(parameter.isfinite().all() for parameter in weights.values())
    if not finite or not gradient or changed < 0.9 * len(gradient):
        raise SystemExit(f'{dtype} on {device}: {changed} of {len(weights)} weights changed; all finite: {finite}')
    return Step({name: float(value) for name, value in losses.items() if name.startswith('loss')}, gradient)


def compare(one: Step, other: Step) -> dict[str, float]:
    """1 - cosine between the gradients, and the relative errors of their norm and of the losses."""
    flat = [torch.cat([step.gradient[name].flatten().double() for name in other.gradient]) for step in (one, other)]
    norms = [gradient.norm().item() for gradient in flat]
    found = {'1 - cosine': 1 - (flat[0] @ flat[1]).item() / (norms[0] * norms[1])}
    found['norm of the gradient'] = abs(norms[0] - norms[1]) / norms[1]
    return found | {name: abs(one.losses[name] - value) / abs(value) for name, value in other.losses.items()}


def beyond(measured: dict[str, float], tolerance: Tolerance) -> list[str]:
    """What exceeds its tolerance, or is not a number, of :func:`compare`."""
    bounds = {'norm of the gradient': tolerance.norm, '1 - cosine': 1 - tolerance.cosine}
    limits = {name: bounds.get(name, tolerance.loss) for name in measured}
    return [f'{name}: {error:.2g} > {limits[name]:.2g}' for name, error in measured.items() if not error <= limits[name]]


def peak_memory(config: Path, device: str, quick: bool) -> dict[str, float]:
    """Peak memory in MiB of two steps at the batch size of the config (2 if quick), and with the models."""
    from mmengine.config import Config  # noqa: PLC0415

    batch = 2 if quick else Config.fromfile(config).train_dataloader.batch_size
    dtype = 'bfloat16' if device == 'cuda' else 'float32'
    machine.keep_freed_memory()
    gc.collect()  # Earlier models.
    before = machine.reset_peak(device)
    _, step = our_step(config, device, dtype)
    step, inputs = with_labels(step), generated_batch(batch)
    step(*inputs)
    whole = machine.peak(device) - before
    before = machine.reset_peak(device)
    for _ in range(2):
        step(*inputs)
    where = f'{dtype}, {batch} images'
    return {f'{where}, MiB': (machine.peak(device) - before) / 2**20, f'{where}, with the models, MiB': whole / 2**20}


CHECKS = {'machine': check_machine, 'kernel': check_kernel, 'fallback': check_fallback, 'pipeline': check_pipeline}


def main() -> None:
    """Run a check and save its numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('check', metavar='CHECK', help=', '.join(CHECKS))
    parser.add_argument('--device', choices=['cpu', 'cuda'], help='by default the GPU, if any')
    parser.add_argument('--config', type=Path, help='of the pipeline')
    parser.add_argument('--quick', action='store_true', help='small batches and short times')
    parser.add_argument('--out', type=Path, help='file of the numbers, JSON')
    args = parser.parse_args()
    if args.check not in CHECKS:
        parser.error(f'there is no check {args.check}; the checks are {", ".join(CHECKS)}')
    if args.check == 'pipeline' and args.config is None:
        parser.error('pipeline needs --config')
    logging.disable(logging.INFO)  # mmengine logs every weight that it initializes.
    args.save = lambda found: args.out and args.out.write_text(json.dumps(found, indent=1) + '\n')
    if args.check != 'machine':
        args.device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    if args.check == 'kernel' and args.device == 'cpu':
        os.environ['TRITON_INTERPRET'] = '1'
    found = CHECKS[args.check](args)
    args.save(found)
    print(*(f'{name}: {value}' for name, value in found.items()), sep='\n')


if __name__ == '__main__':
    main()
