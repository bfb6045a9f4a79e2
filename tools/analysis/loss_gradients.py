"""Measure the share of each loss of a distillation in the gradient of the student.

    python tools/analysis/loss_gradients.py CONFIG [CHECKPOINT] [--batches 8] [--part backbone.] [--progress 0.0]
        [--out FILE.md|FILE.json] [--cfg-options KEY=VALUE ...]

CHECKPOINT is the student's; without it the gradients are those at initialization. The batches are the first ones of
``train_dataloader``, augmented and mixed as in training; the teacher is run, or read from a cache, as the config says. The
gradients are with respect to all trained parameters of the student, or to those of a ``--part``, not of projections and
refiners (``distill.*``), in the precision of its weights. A row of the table has means over the batches, with their
standard deviation:

    value      the weighted loss
    norm       norm of its gradient
    share      the norm, divided by the sum of the norms of all losses
    to task    cosine with the gradient of the task loss, loss_cls
    to total   cosine with the gradient of the sum of all losses

No optimizer steps, and nothing of the model is kept.
"""

import argparse
import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from tables import at_least_1, print_table, table_file, weights_of_teachers, write_table
from torch import nn

import serkd_mm  # noqa: F401  (registers the components, and reports a missing package)
from serkd_mm.analysis.loss_gradients import TOTAL, compare_gradients, gradient_products, mean_and_spread
from serkd_mm.config_errors import ConfigError
from serkd_mm.config_files import OptionsAction, read_config, type_name
from serkd_mm.distillers.cached_teacher import CachedTeacher
from serkd_mm.distillers.task_loss import TASK_LOSS
from serkd_mm.errors import one_line_errors
from serkd_mm.fileio.safe_loading import read_checkpoint
from serkd_mm.hooks.complete_checkpoint_hook import load_all_weights
from serkd_mm.runner import CheckedRunner, check_config
from serkd_mm.seeding import set_seed

COLUMNS = ['loss', 'value', 'norm', 'share', 'to task', 'to total']
NUMBERS = ('value', 'norm', 'share', 'to_task', 'to_total')

Row = dict[str, tuple[float, float]]


def main() -> None:
    """Build model and data, measure, print the table and write it."""
    args = parse_arguments()
    warnings.simplefilter('ignore')
    MMLogger.get_current_instance().setLevel('ERROR')
    config = read_config(args.config, args.cfg_options)
    check_config(config, read_config(args.config), args.cfg_options)
    check_distillation(config, args.config)
    set_seed(0)  # Weights that are not trained are the same in every run.
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        loader = build_loader(config)
        model, student = build_model(config, args.checkpoint)
        model.to(args.device).set_progress(args.progress)
        parameters = parameters_of(model.student, args.part)
        batches, num_images = measure(model, parameters, loader, args.batches)
    rows = {
        name: {number: mean_and_spread([batch[name][number] for batch in batches]) for number in NUMBERS}
        for name in batches[0]
    }
    trained = f'{sum(parameter.numel() for parameter in parameters):,} trained parameters'
    part = f', {args.part}*' if args.part else ''
    title = (
        f'Gradients of the losses of {args.config} with respect to the {trained} of the student{part}, '
        f'{num_images} images in {len(batches)} batch{"es"[: 2 * (len(batches) > 1)]} ({student}; {teachers_of(model)})'
    )
    cells = [cells_of(name, row) for name, row in rows.items()]
    print_table(title, COLUMNS, cells)
    if args.out:
        numbers = {
            name: {number: {'mean': mean, 'spread': spread} for number, (mean, spread) in row.items()}
            for name, row in rows.items()
        }
        write_table(args.out, title, COLUMNS, cells, {'losses': numbers})
        print(f'Wrote {args.out}')


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='a distillation config')
    parser.add_argument('checkpoint', nargs='?', type=Path, help="the student's checkpoint")
    parser.add_argument('--batches', type=at_least_1, default=8, help='number of training batches; by default 8')
    parser.add_argument(
        '--progress', type=progress, default=0.0, help='moment of the training, from 0 to 1, for weights that are schedules'
    )
    parser.add_argument('--part', default='', help="only the student's parameters whose names start so, such as backbone.")
    parser.add_argument('--out', type=table_file, help='a file .md or .json for the table')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction, metavar='KEY=VALUE', help='as in tools/train.py')
    return parser.parse_args()


def progress(text: str) -> float:
    """Read a number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f'{text!r} must be a number from 0 to 1')
    return number


def check_distillation(config: Config, name: str) -> None:
    """Check that the config trains a student with a teacher.

    Raises:
        ConfigError: It does not.
    """
    if type_name(config.model) != 'RelationDistiller':
        raise ConfigError(f'{name}: model.type is {type_name(config.model)}, but only a RelationDistiller has these losses')
    if not config.model.get('teacher') and not config.model.get('teachers'):
        raise ConfigError(f'{name}: model.teacher is not set, so there is one loss, and its share is all of the gradient')
    if not isinstance(config.get('train_dataloader'), Mapping):
        raise ConfigError(f'{name}: train_dataloader is missing: the gradients are those of training batches')


def build_loader(config: Config) -> torch.utils.data.DataLoader:
    """Build the dataloader of the training, without worker processes: few batches are read."""
    of_workers = ('prefetch_factor', 'multiprocessing_context', 'timeout')
    settings = {name: value for name, value in config.train_dataloader.items() if name not in of_workers}
    return CheckedRunner.build_dataloader({**settings, 'num_workers': 0, 'persistent_workers': False}, seed=0)


def build_model(config: Config, checkpoint: Path | None) -> tuple[nn.Module, str]:
    """Build the distiller with its weights; return it, and a few words about those of the student."""
    config.model.setdefault('data_preprocessor', config.get('data_preprocessor'))
    config.model.student['compile'] = False  # Compiled graphs allow for a single backward pass.
    model = MODELS.build(config.model)
    model.init_weights()
    if checkpoint is None:
        started = config.model.student.get('checkpoint')
        return model.train(), 'student: at initialization' + (f' from {started}' if started else '')
    where = repr(str(checkpoint))
    content = read_checkpoint(checkpoint, where)
    load_all_weights(model, content, where)
    missing = model.state_dict().keys() - content.get('state_dict', content).keys()
    random = ', but its projections (distill.*) are random' if any(name.startswith('distill.') for name in missing) else ''
    return model.train(), f'student: {checkpoint}{random}'


def teachers_of(model: nn.Module) -> str:
    """Where the teachers' outputs come from, in words."""
    if isinstance(model.teacher, CachedTeacher):
        return f'teacher: cache {model.teacher.folder}'
    return ', '.join(weights_of_teachers(model))


def parameters_of(student: nn.Module, part: str) -> list[nn.Parameter]:
    """Return the trained parameters of the student whose names start with ``part``.

    Raises:
        ConfigError: There are none.
    """
    trained = {name: parameter for name, parameter in student.named_parameters() if parameter.requires_grad}
    chosen = [parameter for name, parameter in trained.items() if name.startswith(part)]
    if not chosen:
        parts = dict.fromkeys(f'{name.split(".")[0]}.' for name in trained)
        raise ConfigError(f'--part {part}: the student has no such trained parameter; there are {", ".join(parts)}')
    return chosen


def measure(
    model: nn.Module, parameters: list[nn.Parameter], loader: torch.utils.data.DataLoader, number: int
) -> tuple[list[dict[str, dict[str, float]]], int]:
    """Describe the gradient of each loss for at most ``number`` batches; return also the number of images."""
    measured, num_images, batches = [], 0, iter(loader)
    for seed in range(number):
        set_seed(seed)  # Other losses and students are measured on the same images.
        data = next(batches, None)
        if data is None:
            break
        batch = model.data_preprocessor(data, training=True)
        losses = model(**batch, mode='loss')
        total, scalars = model.parse_losses(losses)
        terms = {name: value for name, value in scalars.items() if 'loss' in name and name != 'loss'}
        rows = compare_gradients(list(terms), gradient_products(terms, parameters), TASK_LOSS)
        for name, value in {**terms, TOTAL: total}.items():
            rows[name]['value'] = value.item()
        measured.append(rows)
        num_images += len(batch['inputs'])
    return measured, num_images


def cells_of(name: str, row: Row) -> list[str]:
    """The cells of a row of the table."""
    return [
        name,
        written(row['value'], '.4g', '.2g'),
        written(row['norm'], '.3g', '.2g'),
        written(tuple(100 * number for number in row['share']), '.1f', '.1f', ' %'),
        written(row['to_task'], '+.3f', '.3f'),
        written(row['to_total'], '+.3f', '.3f'),
    ]


def written(numbers: tuple[float, float], mean_style: str, spread_style: str, unit: str = '') -> str:
    """A mean with its standard deviation if there is one; '-' without a mean."""
    mean, spread = numbers
    if math.isnan(mean):
        return '-'
    return f'{mean:{mean_style}}' + ('' if math.isnan(spread) else f' ± {spread:{spread_style}}') + unit


if __name__ == '__main__':
    with one_line_errors():
        main()
