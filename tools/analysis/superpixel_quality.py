"""Measure the superpixels of a teacher and a student on images: how far from average pooling, and what they explain.

    python tools/analysis/superpixel_quality.py CONFIG [CHECKPOINT] IMAGES... [--view NAME] [--cells 1 2 3]
        [--iters 1 2 3 10] [--variants paper normalize tau=0.5 exclude-self normalize+exclude-self]
        [--untrained-student] [--max-images 200] [--out FILE.md|FILE.json] [--cfg-options KEY=VALUE ...]

CHECKPOINT is the student's; without it only the teacher is measured. IMAGES are files, or folders that are searched. They
pass through the config's test pipeline. A row of the table is a mean over the images:

    own cell     share of tokens whose most probable superpixel is that of their own cell
    entropy      of a token's association Q with the superpixels, in nats; 0 if each token has one superpixel
    explained    share of the variance of an image's tokens X that superpixels S explain: 1 - |X - Q S|^2 / |X - mean|^2
    by cells     the same of average pooling, in which each token is replaced by the average of its own cell
    correlation  Pearson's, between the pairwise distances of the superpixels and those of the averages of the cells

Superpixels are those of the merger, before a refiner of the student.
"""

import argparse
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dataset import Compose, default_collate
from mmengine.logging import MMLogger
from mmpretrain.registry import MODELS, TRANSFORMS
from tables import at_least_1, print_table, table_file, weights_of_teachers, write_table
from torch import Tensor, nn

import serkd_mm  # noqa: F401  (registers the components, and reports a missing package)
from serkd_mm.analysis.superpixel_quality import Variant, measure
from serkd_mm.config_errors import ConfigError, prefix_errors, suggest
from serkd_mm.config_files import OptionsAction, read_config, type_name
from serkd_mm.distillers.teacher_names import teacher_key, teacher_settings
from serkd_mm.errors import one_line_errors
from serkd_mm.fileio.images import IMAGE_EXTENSIONS, find_images
from serkd_mm.fileio.safe_loading import read_checkpoint
from serkd_mm.hooks.complete_checkpoint_hook import load_all_weights
from serkd_mm.hooks.image_error_hook import ErrorContextCollate, ErrorContextPipeline
from serkd_mm.mergers import SuperpixelMerger
from serkd_mm.ops import superpixel_grid
from serkd_mm.ops.cells import describe_cell

COLUMNS = ['side', 'view, tap', 'cell', 'tokens', 'superpixels', 'variant', 'T']
COLUMNS += ['own cell', 'entropy', 'explained', 'by cells', 'correlation']
WIDTH = 200  # Of a page that is not printed on a terminal.


def main() -> None:
    """Build the model, measure, print the table and write it."""
    args = parse_arguments()
    warnings.simplefilter('ignore')
    MMLogger.get_current_instance().setLevel('ERROR')
    config = read_config(args.config, args.cfg_options)
    check_teachers(config, args.config)
    images = choose_images(args.images, args.max_images)
    model = build_model(config, args.checkpoint).to(args.device)
    views = choose_views(model, args.view)
    sides = ['student', 'teacher'] if args.checkpoint or args.untrained_student else ['teacher']
    measured = defaultdict(list)
    with torch.no_grad():
        for inputs in batches(config, images, model, args.batch_size):
            for (side, view, tap), grid in token_grids(model, inputs, views, sides).items():
                for settings, values in measure_all(grid, model.distill.views[view].merger, args):
                    measured[(side, view, tap, *settings)].append(values)
    rows = [row_of(key, values) for key, values in measured.items()]
    title = title_of(args, model, len(images))
    cells = [cells_of(row) for row in rows]
    print_table(title, COLUMNS, cells)
    if args.out:
        write_table(args.out, title, COLUMNS, cells, {'rows': rows})
        print(f'Wrote {args.out}')


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage='%(prog)s CONFIG [CHECKPOINT] IMAGES...',
    )
    parser.add_argument('config', help='a distillation config, whose teacher is run')
    parser.add_argument(
        'images', nargs='+', type=Path, metavar='[CHECKPOINT] IMAGES', help="the student's checkpoint; images or folders"
    )
    parser.add_argument('--view', help='name of the view; by default all views with superpixels')
    parser.add_argument(
        '--cells', nargs='+', type=at_least_1, help="tokens per side of a cell; by default the config's cells"
    )
    parser.add_argument('--iters', nargs='+', type=at_least_1, help="numbers of iterations T; by default the config's")
    parser.add_argument(
        '--variants', nargs='+', type=variant, help='paper, or normalize, tau=NUMBER and exclude-self joined by +'
    )
    parser.add_argument('--untrained-student', action='store_true', help='measure the student with random weights')
    parser.add_argument('--max-images', type=at_least_1, default=200, help='number of images, evenly spread; by default 200')
    parser.add_argument('--batch-size', type=at_least_1, default=32, help='images that are computed at a time')
    parser.add_argument('--out', type=table_file, help='a file .md or .json for the table')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction, metavar='KEY=VALUE', help='as in tools/train.py')
    args = parser.parse_args()
    first, *others = args.images
    args.checkpoint = None if first.is_dir() or first.suffix.lower() in IMAGE_EXTENSIONS else first
    args.images = args.images if args.checkpoint is None else others
    if not args.images:
        parser.error(f'no images: {first} is read as the checkpoint')
    if args.checkpoint and args.untrained_student:
        parser.error('--untrained-student: leave out the checkpoint')
    return args


def variant(text: str) -> Variant:
    """Read settings of the association."""
    try:
        return Variant.from_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_teachers(config: Config, name: str) -> None:
    """Check that there is a teacher that can be run.

    Raises:
        ConfigError: There is none, or its outputs are read from a cache.
    """
    if type_name(config.get('model')) != 'RelationDistiller':
        raise ConfigError(
            f'{name}: model.type is {type_name(config.get("model"))}, but only a RelationDistiller has superpixels'
        )
    several = config.model.get('teachers') is not None
    settings = teacher_settings(config.model.get('teacher'), config.model.get('teachers'))
    if not settings:
        raise ConfigError(f'{name}: model.teacher is not set, so there are no superpixels to measure')
    for teacher, its in settings.items():
        if isinstance(its, Mapping) and its.get('cache') is not None:
            raise ConfigError(
                f"{teacher_key(teacher, several)}.cache={its['cache']!r}: a cache does not hold the teacher's features, "
                'which are needed. Give the config that the cache was made from'
            )


def choose_images(paths: list[Path], number: int) -> list[Path]:
    """Return at most ``number`` images, evenly spread over the sorted files."""
    images = sorted({image for path in paths for image in find_images(path)})
    number = min(number, len(images))
    return [images[index * len(images) // number] for index in range(number)]


def build_model(config: Config, checkpoint: Path | None) -> nn.Module:
    """Build the distiller with the weights of its teachers, and with those of a checkpoint of the student."""
    config.model.setdefault('data_preprocessor', config.get('data_preprocessor'))
    torch.manual_seed(0)  # Weights that are not trained are the same in every run.
    model = MODELS.build(config.model)
    if checkpoint is None:
        model.init_weights()
    else:
        where = repr(str(checkpoint))
        load_all_weights(model, read_checkpoint(checkpoint, where), where)
    for teacher in model.teachers.values():
        teacher.load()
    return model.eval()


def choose_views(model: nn.Module, name: str | None) -> list[str]:
    """Return the names of the views to measure.

    Raises:
        ConfigError: No view has superpixels, or not the named one.
    """
    views = [view for view, part in model.distill.views.items() if isinstance(part.merger, SuperpixelMerger)]
    if not views:
        raise ConfigError(
            'model.views: no view that a loss reads has a SuperpixelMerger. Set one, for example --cfg-options '
            'model.views.NAME.merger.type=SuperpixelMerger'
        )
    if name is not None and name not in views:
        raise ConfigError(f'--view {name}: no such view with a SuperpixelMerger. {suggest(name, views)}')
    return views if name is None else [name]


def batches(config: Config, images: list[Path], model: nn.Module, batch_size: int) -> Iterator[Tensor]:
    """Read the images by the test pipeline, and preprocess them for the student."""
    transforms = [TRANSFORMS.build(transform) for transform in config.test_dataloader.dataset.pipeline]
    pipeline, collate = ErrorContextPipeline(Compose(transforms)), ErrorContextCollate(default_collate)
    for start in range(0, len(images), batch_size):
        samples = [pipeline({'img_path': str(image)}) for image in images[start : start + batch_size]]
        yield model.data_preprocessor(collate(samples), training=False)['inputs']


def token_grids(model: nn.Module, inputs: Tensor, views: list[str], sides: list[str]) -> dict[tuple[str, str, str], Tensor]:
    """Run student and teachers once; return the token grids by side, view and tap."""
    features = {name: teacher(inputs) for name, teacher in model.teachers.items()}
    if 'student' in sides:
        with model.student_taps.record(tuple(inputs.shape[-2:])) as student:
            model.student(inputs)
    grids = {}
    for side in sides:
        for name in views:
            view = model.distill.views[name]
            of_side = student if side == 'student' else features[view.teacher]
            for tap, tokenizer in view.tokenizer_of.items():
                grids[side, name, tap] = getattr(model.distill.tokenizers[tokenizer], side)(of_side[tap])
    return grids


def measure_all(
    grid: Tensor, merger: SuperpixelMerger, args: argparse.Namespace
) -> Iterator[tuple[tuple, dict[str, Tensor]]]:
    """Yield the settings that were asked for, with the measured values of a token grid."""
    for cell in [(size, size) for size in args.cells or ()] or [merger.cell]:
        with prefix_errors('--cells' if args.cells else 'merger'):
            shape = superpixel_grid(*grid.shape[-2:], cell)
        for chosen in args.variants or [Variant(**merger.options)]:
            for num_iters in args.iters or [merger.num_iters]:
                settings = describe_cell(cell), tuple(grid.shape[-2:]), shape, chosen, num_iters
                yield settings, measure(grid, cell, num_iters, chosen)


def row_of(key: tuple, measured: list[dict[str, Tensor]]) -> dict:
    """Settings and means over the images; a mean leaves out images that have no such value."""
    side, view, tap, cell, tokens, superpixels, chosen, num_iters = key
    settings = {'side': side, 'view': view, 'tap': tap, 'cell': cell, 'tokens': tokens, 'superpixels': superpixels}
    means = {name: torch.cat([part[name] for part in measured]).nanmean().item() for name in measured[0]}
    return {**settings, 'variant': str(chosen), 'num_iters': num_iters, **means}


def title_of(args: argparse.Namespace, model: nn.Module, number: int) -> str:
    """What was measured, in words."""
    weights = weights_of_teachers(model)
    if args.checkpoint or args.untrained_student:
        weights.insert(0, f'student: {args.checkpoint or "not trained"}')
    return f'Superpixels of {args.config}, {number} images ({", ".join(weights)})'


def cells_of(row: dict) -> list[str]:
    """The cells of a row of the table."""
    shapes = ['x'.join(map(str, row[name])) for name in ('tokens', 'superpixels')]
    own_cell = '-' if math.isnan(row['own_cell']) else f'{100 * row["own_cell"]:.1f} %'
    names = ('entropy', 'explained', 'explained_by_cells', 'correlation')
    numbers = ['-' if math.isnan(row[name]) else f'{row[name]:.3f}' for name in names]
    return [
        row['side'],
        f'{row["view"]}, {row["tap"]}',
        row['cell'],
        *shapes,
        row['variant'],
        str(row['num_iters']),
        own_cell,
        *numbers,
    ]


if __name__ == '__main__':
    with one_line_errors():
        main()
