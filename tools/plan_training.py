"""Estimate the time, memory and disk of a whole training, with the teacher and from a cache of its outputs.

    python tools/plan_training.py CONFIG [CONFIG ...] [--gpus 1 8] [--gpu h100] [--views 10] [--photo IMAGE]

ESTIMATES from counts: nothing is trained, and nothing runs on a GPU. The kernels of a training step in bfloat16 autocast
(--amp) are counted on tensors without values; docs/en/user_guides/plan_a_training.md has the formulas and the assumptions.
Neither images nor the teacher's weights are needed.
"""

import argparse
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import cv2
import torch
import training_time
from describe import build_model
from kernel_counts import StepCounts, count_step
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS
from training_time import GPUS, Rates, Step

from serkd_mm.config_files import OptionsAction, type_name
from serkd_mm.distillers.cache_maker import CacheOptions
from serkd_mm.errors import UserError, one_line_errors

GIB = 2**30
# Training images of data sets that may not be on this machine.
KNOWN_IMAGES = {'ImageNet': 1_281_167, 'CIFAR10': 50_000, 'CIFAR100': 50_000}
PHOTO_SECONDS = 3


class PlanError(UserError, ValueError):
    """A training cannot be planned. The message says what is missing."""


def main() -> None:
    """Print the plan of each config."""
    args = parser().parse_args()
    MMLogger.get_current_instance().setLevel('ERROR')
    warnings.simplefilter('ignore')
    rates = rates_of(args)
    print(assumptions(args, rates), end='\n\n')
    for path in args.configs:
        print(plan(path, args, rates), flush=True)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    defaults = Rates(GPUS['h100'])
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = result.add_argument
    add('configs', nargs='+', metavar='CONFIG', help='distillation configs, with a teacher that is not cached')
    add('--gpus', nargs='+', type=positive_int, default=[1, 8], help='numbers of GPUs; default: 1 8')
    add('--gpu', choices=GPUS, default='h100', help='the data sheet to start from, and the angle kernel; default: h100')
    add('--peak-tflops', type=positive, help='peak of another GPU in bfloat16, without sparsity')
    add('--bandwidth', type=positive, help='bandwidth of its memory in GB/s')
    add('--utilization', type=share, default=defaults.utilization, help='share of the peak; default: %(default)s')
    add('--bandwidth-share', type=share, default=defaults.bandwidth_share, help='of the bandwidth; default: %(default)s')
    add('--launch-us', type=positive, default=1e6 * defaults.launch, help='to start a kernel; default: %(default)s')
    add('--views', type=positive_int, default=CacheOptions.num_views, help='views of a cache; default: %(default)s')
    add('--epochs', type=positive_int, help='default: those of the config')
    add('--images', type=positive_int, help="training images; default: the data set's, ImageNet's 1,281,167 if it is absent")
    add('--images-per-core', type=positive, default=100, help='images that a CPU core loads a second; default: %(default)s')
    add('--photo', type=Path, help='measure that instead, with the pipeline of each config on this photograph')
    add('--cores-per-gpu', type=positive_int, default=16, help='CPU cores for each GPU; default: %(default)s')
    add('--cfg-options', nargs='+', action=OptionsAction, metavar='KEY=VALUE', help='as in tools/train.py')
    return result


def rates_of(args: argparse.Namespace) -> Rates:
    """Return the assumed rates of the command line."""
    changes = {'bfloat16': args.peak_tflops, 'bandwidth': args.bandwidth}
    gpu = GPUS[args.gpu]._replace(**{name: value for name, value in changes.items() if value})
    return Rates(gpu, args.utilization, args.bandwidth_share, args.launch_us / 1e6, args.gpu.upper())


def assumptions(args: argparse.Namespace, rates: Rates) -> str:
    """Return in words what is assumed."""
    gpu = rates.gpu
    other = ' with other numbers' if args.peak_tflops or args.bandwidth else ''
    return (
        f'ESTIMATES: counted, not measured; nothing ran on a GPU. Assumed: training with --amp, {args.gpu.upper()}{other} '
        f'(bfloat16: {gpu.bfloat16:g} '
        f'TFLOPS, of which kernels reach {rates.utilization:g}; {gpu.bandwidth:,g} GB/s, of which they reach '
        f'{rates.bandwidth_share:g}), {1e6 * rates.launch:g} microseconds to start a kernel, {args.cores_per_gpu} CPU cores '
        'for each GPU.'
    )


def plan(path: str, args: argparse.Namespace, rates: Rates) -> str:
    """Return the tables of one config."""
    config, model = build_model(path, args.cfg_options, weights=False)
    check_plannable(path, config)
    batch_size = config.train_dataloader.batch_size
    images = args.images or num_images(config)
    try:
        counts = count_step(model, config, batch_size)
    except RuntimeError as error:  # Such as a shape that depends on values.
        raise PlanError(f'{path}: a step on tensors without values failed. {type(error).__name__}: {error}') from error
    per_core = measure_loading(config, args.photo) if args.photo else args.images_per_core
    args = argparse.Namespace(**{**vars(args), 'images': images, 'images_per_core': per_core})
    steps = {'live': training_time.live_step(counts, rates)}
    if all(losses for losses, *_ in counts.cached):
        steps['cached'] = training_time.cached_step(counts, rates)
    lines = [
        f'## {Path(path).stem}',
        '',
        f'{length(config, args)} {images:,} images, {batch_size} images a GPU and step.',
        '',
        *costs_table(counts, rates),
        '',
        *hours_table(config, steps, args),
        '',
        *memory_table(counts, steps, rates),
        '',
        *cache_table(counts, rates, args),
    ]
    return '\n'.join(lines) + '\n'


def check_plannable(path: str, config: Config) -> None:
    """Refuse a config whose steps are not all alike, or whose teacher is not where it is counted.

    Raises:
        PlanError: It is one; the message names the setting.
    """
    teachers = (config.model.get('teachers') or {'teacher': config.model.teacher}).values()
    if any(teacher.get('cache') for teacher in teachers):
        raise PlanError(
            f'{path}: model.teacher.cache is set. Plan the config that the cache was made from: both are printed'
        )
    if any(teacher.get('device') for teacher in teachers):
        raise PlanError(f'{path}: device is set for a teacher, but the plan has it on the GPU of the student: leave it out')
    if any(type_name(hook) == 'TapCurriculumHook' for hook in config.get('custom_hooks') or ()):
        raise PlanError(
            f'{path}: custom_hooks: TapCurriculumHook moves a tap of the teacher, so the cost of a step changes. Plan it '
            'without the hook, at its first and at its last tap'
        )


def num_images(config: Config) -> int:
    """Return the number of training images: counted if the data set is on this machine.

    Raises:
        PlanError: It is not, and its size is not known.
    """
    dataset = config.train_dataloader.dataset
    kind, folder = type_name(dataset), Path(dataset.get('data_root') or '') / str(dataset.get('data_prefix') or '')
    if kind not in KNOWN_IMAGES or (kind == 'ImageNet' and folder.is_dir()):
        try:
            init_default_scope(config.get('default_scope') or 'mmpretrain')
            return len(DATASETS.build(dataset))
        except (OSError, ValueError, RuntimeError) as error:
            raise PlanError(
                f'{config.filename}: the training images cannot be counted; set their number by --images. {error}'
            ) from error
    return KNOWN_IMAGES[kind]


def seen_images(config: Config, num_gpus: int, args: argparse.Namespace) -> int:
    """Return how many images the whole training sees."""
    epochs = args.epochs or config.train_cfg.get('max_epochs')
    if epochs:
        return epochs * args.images
    return config.train_cfg.max_iters * config.train_dataloader.batch_size * num_gpus


def length(config: Config, args: argparse.Namespace) -> str:
    """Return the length of the training in words."""
    epochs = args.epochs or config.train_cfg.get('max_epochs')
    return f'{epochs} epochs of' if epochs else f'{config.train_cfg.max_iters:,} iterations on'


def measure_loading(config: Config, photo: Path) -> float:
    """Return how many times a second of CPU time one thread loads a photograph with the pipeline of a config.

    Raises:
        PlanError: The pipeline does not load an image file.
    """
    init_default_scope(config.get('default_scope') or 'mmpretrain')
    pipeline = config.train_dataloader.dataset.get('pipeline', [])
    if 'LoadImageFromFile' not in map(type_name, pipeline):
        raise PlanError(f'{config.filename}: --photo: the pipeline of the training does not load image files')
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    run, loaded, start = Compose(pipeline), 0, None
    if cv2.imread(str(photo)) is None:
        raise PlanError(f'--photo {photo}: this is no image file')
    while start is None or time.process_time() - start < PHOTO_SECONDS:
        run({'img_path': str(photo), 'gt_label': 0})
        loaded, start = (0, time.process_time()) if start is None else (loaded + 1, start)  # The first one imports.
    return loaded / (time.process_time() - start)


def costs_table(counts: StepCounts, rates: Rates) -> list[str]:
    """What an image costs: FLOPs, bytes moved and time by part, and kernels of a step."""
    forward = counts.forward_flops
    header = ('part of a step', 'GFLOPs an image', 'MB moved an image', 'kernels', 'microseconds an image')
    parts = {
        'teacher, until its last tap': counts.teacher,
        'student and losses, forward and backward': counts.student,
        'reading a cache': counts.decoding,
        'update of the weights': counts.optimizer,
    }
    rows = [
        (
            part,
            f'{sum(kernel.flops for kernel in kernels) / counts.batch_size / 1e9:.2f}',
            f'{sum(kernel.num_bytes for kernel in kernels) / counts.batch_size / 1e6:.1f}',
            f'{len(kernels):,}' if kernels is not counts.optimizer else '-',
            f'{1e6 * rates.gpu_seconds(kernels) / counts.batch_size:.1f}',
        )
        for part, kernels in parts.items()
    ]
    angles = 1e6 * rates.angle_seconds(counts.angles) / counts.batch_size
    rows.append(('angle kernel', '-', '-', f'{len(counts.angles)}', f'{angles:.2f}'))
    tripled = f'{3 * forward["student"] / 1e9:.2f}'
    note = f"3 x the student's forward pass is {tripled} GFLOPs; a multiplication with an addition is two FLOPs."
    return [*markdown(header, rows), '', note]


def hours_table(config: Config, steps: Mapping[str, Step], args: argparse.Namespace) -> list[str]:
    """Hours of the whole training by number of GPUs, and what loading the images needs."""
    header = (
        'teacher',
        'GPUs',
        'ms a step',
        'waits for',
        'images / s',
        'hours',
        'CPU cores to load as fast',
        f'hours, {args.cores_per_gpu} cores a GPU',
    )
    rows = []
    for kind, step in steps.items():
        for gpus in args.gpus:
            seen, speed = seen_images(config, gpus, args), step.images_per_second(gpus)
            loaded = min(speed, gpus * args.cores_per_gpu * args.images_per_core)
            rows.append(
                (
                    kind,
                    str(gpus),
                    f'{1e3 * step.seconds:.1f}',
                    step.bound,
                    f'{speed:,.0f}',
                    readable(training_time.hours(seen, speed)),
                    f'{training_time.cores_for(speed, args.images_per_core):,}',
                    readable(training_time.hours(seen, loaded)),
                )
            )
    how = f'measured on {args.photo.name}' if args.photo else 'an assumption'
    return [*markdown(header, rows), '', f'A CPU core loads {args.images_per_core:.0f} images a second: {how}.']


def memory_table(counts: StepCounts, steps: Mapping[str, Step], rates: Rates) -> list[str]:
    """Memory of a GPU by part."""
    columns = [training_time.memory_of(counts, kind == 'cached') for kind in steps]
    rows = [(part, *(f'{column[part] / GIB:.2f}' for column in columns)) for part in columns[0]]
    rows.append(('sum', *(f'{sum(column.values()) / GIB:.2f}' for column in columns)))
    note = f'Temporary memory of layers comes on top. The GPU has {rates.gpu.memory} GiB.'
    too_large = [kind for kind, column in zip(steps, columns, strict=True) if sum(column.values()) > rates.gpu.memory * GIB]
    if too_large:
        note += f' **Does not fit: {", ".join(too_large)}.**'
    return [*markdown(('memory of a GPU, GiB', *steps), rows), '', note]


def cache_table(counts: StepCounts, rates: Rates, args: argparse.Namespace) -> list[str]:
    """Disk of a cache, and the hours to make it."""
    if not all(losses for losses, *_ in counts.cached):
        return ['There is no cache for this config: ' + '; '.join(stored for _, stored, _ in counts.cached) + '.']
    rows = [(', '.join(losses), stored, f'{num_bytes:,}') for losses, stored, num_bytes in counts.cached]
    rows.append(('(checksums)', '', str(training_time.CHECKSUMS)))
    size = training_time.cache_bytes(counts, args.images, args.views)
    step, seen = training_time.making_step(counts, rates), args.views * args.images
    by_gpus = []
    for gpus in args.gpus:
        speed = step.images_per_second(gpus)
        loaded = min(speed, gpus * args.cores_per_gpu * args.images_per_core)
        by_gpus.append(
            f'{gpus} GPU{"s" * (gpus > 1)}: {readable(training_time.hours(seen, speed))} h, '
            f'{readable(training_time.hours(seen, loaded))} h with {args.cores_per_gpu} cores a GPU'
        )
    made = f'{args.views} views x {args.images:,} images: {size / 1e9:,.1f} GB. To make it, {"; ".join(by_gpus)}.'
    return [*markdown(('losses', 'stored as', 'bytes an image and view'), rows), '', made]


def readable(number_of_hours: float) -> str:
    """Return hours with the digits that an estimate may show."""
    return f'{number_of_hours:.1f}' if number_of_hours >= 1 else f'{number_of_hours:.2g}'


def markdown(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f'| {" | ".join(row)} |' for row in (header, ['---'] * len(header), *rows)]


def positive(text: str) -> float:
    """Parse a number above 0."""
    value = float(text)
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text} must be above 0')
    return value


def share(text: str) -> float:
    """Parse a number above 0, 1 at most."""
    value = positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f'{text} must be 1 at most')
    return value


def positive_int(text: str) -> int:
    """Parse a whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f'{text} must be a whole number above 0')
    return int(text)


if __name__ == '__main__':
    with one_line_errors():
        main()
