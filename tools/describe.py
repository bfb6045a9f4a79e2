"""Describe a distillation: both models, taps, views, losses, what is trained and saved, and the memory of a step.

    python tools/describe.py CONFIG [--cfg-options KEY=VALUE ...]

Builds the model and takes one step on two generated images. It needs no data, and reports mistakes in the config within
seconds. The teacher's weights are loaded if they are on this machine, and are random otherwise.
"""

import argparse
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from cache_sizes import planned_outputs
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from model_costs import MIB, count_patches, student_costs, teacher_costs, weights_memory
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

import serkd_mm  # noqa: F401  (registers the components, and reports a missing package)
from serkd_mm.config_errors import ConfigError
from serkd_mm.config_files import OptionsAction, read_config, type_name
from serkd_mm.distillers.cached_teacher import CachedTeacher
from serkd_mm.distillers.frozen_teacher import FrozenTeacher
from serkd_mm.distillers.model_parts import backbone_of
from serkd_mm.distillers.targets import Targets
from serkd_mm.distillers.teacher_names import SINGLE
from serkd_mm.errors import one_line_errors
from serkd_mm.losses.schedules import ScheduledSettings
from serkd_mm.runner import check_config
from serkd_mm.tokenizers import Feature

NUM_IMAGES = 2


def main() -> None:
    """Build the model, take one step, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='a distillation config')
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction, metavar='KEY=VALUE', help='as in tools/train.py')
    args = parser.parse_args()
    MMLogger.get_current_instance().setLevel('ERROR')
    warnings.simplefilter('ignore')
    config, model = build_model(args.config, args.cfg_options)
    try:
        teacher_weights = load_teachers(model)
    except ConfigError as error:
        raise SystemExit(f'{args.config}: {error}') from None
    batch = generated_batch(model)
    losses, saved_bytes = training_step(model, batch)
    with torch.no_grad():
        student, teachers = features_of(model, batch['inputs'])
        targets = model.targets(**batch)
    console = Console()
    for table in (
        models_table(model),
        taps_table(model, student, teachers),
        views_table(model),
        tokens_table(model, student, targets),
        losses_table(model, losses),
        saved_table(model),
        memory_table(model, saved_bytes, (config.get('train_dataloader') or {}).get('batch_size', NUM_IMAGES)),
        cache_table(model, teachers),
    ):
        console.print(table)
    console.print(teacher_weights, soft_wrap=True)


def build_model(path: str, options: Mapping | None, weights: bool = True) -> tuple[Config, nn.Module]:
    """Read a config and build its distiller, in training mode; the teachers' weights are not loaded.

    Args:
        path: Path of the config.
        options: Settings of ``--cfg-options``.
        weights: Whether the files of the teachers' weights must exist. Default: True.

    Raises:
        SystemExit: The config does not distill, or is wrong.
    """
    config = read_config(path, options)
    check_config(config, read_config(path), options)
    if type_name(config.model) != 'RelationDistiller':
        raise SystemExit(f'{path}: model.type is {type_name(config.model)}, but only a RelationDistiller distills')
    if not config.model.get('teacher') and not config.model.get('teachers'):
        raise SystemExit(f'{path}: model.teacher is not set, so there is no distillation to describe')
    for teacher in () if weights else [config.model.get('teacher'), *(config.model.get('teachers') or {}).values()]:
        if teacher and not teacher.get('cache'):
            teacher.update(checkpoint=None, allow_random_teacher=True)
    torch.manual_seed(0)
    config.model.setdefault('data_preprocessor', config.get('data_preprocessor'))
    try:
        return config, MODELS.build(config.model).train()
    except ConfigError as error:
        raise SystemExit(f'{path}: {error}') from None


def load_teachers(model: nn.Module) -> str:
    """Load the weights of each teacher if they are on this machine; return a sentence about those of each.

    Raises:
        ConfigError: They cannot be read or do not match the teacher.
    """
    if is_cached(model):
        return f"The teacher's outputs are read from {model.teacher.folder}; here they are random values."
    return '\n'.join(load_teacher(teacher, side) for side, teacher in sides_of_teachers(model).items())


def load_teacher(teacher: FrozenTeacher, side: str) -> str:
    """Load the weights of one teacher if they are on this machine; return a sentence about them."""
    weights = teacher.config.weights
    teacher.config.device = None  # Examined where the images are: this machine may have no such GPU.
    if weights is not None and weights.is_local:
        teacher.load()
        return f"The {side}'s weights: {weights.shown}"
    teacher.loaded = True  # The random weights stay.
    if weights is None:
        return f'{teacher.key}.checkpoint is not set: the values of the losses are those of a random teacher.'
    return f"The {side}'s weights ({weights.shown}) are not on this machine: the values are those of a random teacher."


def generated_batch(model: nn.Module, num_images: int = NUM_IMAGES) -> dict:
    """A preprocessed batch of generated images with labels."""
    images = torch.randint(0, 256, (num_images, *model.input_size)).float()
    samples = [DataSample().set_gt_label(index % NUM_IMAGES) for index in range(num_images)]
    batch = model.data_preprocessor({'inputs': images, 'data_samples': samples}, training=True)
    if is_cached(model):
        model.teacher.add_examples(batch['data_samples'])
    return batch


def is_cached(model: nn.Module) -> bool:
    """Whether the teacher's outputs are read from a cache."""
    return isinstance(model.teacher, CachedTeacher)


def sides_of_teachers(model: nn.Module) -> dict[str, FrozenTeacher]:
    """The teachers that are built by what the tables call them: 'teacher', or with their names."""
    if is_cached(model):
        return {}
    return {SINGLE if name == SINGLE else f'{SINGLE} {name}': teacher for name, teacher in model.teachers.items()}


def features_of(model: nn.Module, inputs: torch.Tensor) -> tuple[dict[str, Feature], dict[str, dict[str, Feature]]]:
    """The student's tapped features, and those of each teacher that is built, by name."""
    if not is_cached(model):
        student, teacher = model.extract_features(inputs)
        return student, teacher if len(model.teachers) > 1 else dict.fromkeys(model.teachers, teacher)
    with model.student_taps.record(tuple(inputs.shape[-2:])) as student:
        model.student(inputs)
    return student, {}


def training_step(model: nn.Module, batch: Mapping) -> tuple[dict[str, torch.Tensor], int]:
    """Run forward and backward; return the weighted losses and the bytes that forward saved for backward."""
    with count_saved(model) as saved:
        losses = model.distillation_step(**batch)
        total = model.parse_losses(losses)[0]
    total.backward()
    return losses, sum(saved.values())


@contextmanager
def count_saved(model: nn.Module) -> Iterator[dict[int, int]]:
    """Count the bytes of each storage that is saved for the backward pass, without weights."""
    teachers = [tensor for teacher in sides_of_teachers(model).values() for tensor in tensors_of(teacher)]
    # By the storage itself: fake tensors have no address in memory.
    weights = {weight.untyped_storage()._cdata for weight in (*model.parameters(), *teachers)}
    saved: dict[int, int] = {}
    kept = []  # Keeps the storages alive, so that no address is used twice.

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = storage.nbytes()
            kept.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def models_table(model: nn.Module) -> Table:
    """Student and teachers with their size and cost; FLOPs of one image, of a teacher also until its last used tap."""
    columns = ('side', 'model', 'parameters', 'weights', 'FLOPs', 'until the last tap', 'input', 'patches')
    table = new_table('Models', *columns)
    channels, *student_size = model.input_size
    sides = {'student': (model.student, student_size, student_costs(model.student, model.input_size))}
    for side, teacher in sides_of_teachers(model).items():
        sides[side] = (teacher.model, teacher.input_size or student_size, teacher_costs(teacher, model.input_size))
    for side, (part, size, costs) in sides.items():
        name, shape = type(backbone_of(part) or part).__name__, 'x'.join(map(str, (channels, *size)))
        table.add_row(
            side, name, millions(part.parameters()), weights_memory(part), *costs, shape, count_patches(part, size)
        )
    return table


def taps_table(model: nn.Module, student: Mapping[str, Feature], teachers: Mapping[str, Mapping[str, Feature]]) -> Table:
    """Modules that are tapped on both sides, with the shapes of their outputs for one image; a row for each teacher."""
    table = new_table('Taps', 'tap', 'student', 'shape', 'teacher', 'shape')
    for tap, feature in student.items():
        own = [model.student_taps.paths[tap], shape_of(feature.tensor)]
        read = {name: features[tap] for name, features in teachers.items() if tap in features}
        for name, of_teacher in read.items():
            path = model.teachers[name].taps.paths[tap]
            table.add_row(tap, *own, path if name == SINGLE else f'{name}: {path}', shape_of(of_teacher.tensor))
        if not read:
            table.add_row(tap, *own)
    return table


def views_table(model: nn.Module) -> Table:
    """Views with their components, which all taps of a view share."""
    several = len(model.teachers) > 1
    table = new_table('Views', 'view', 'tokenizer', 'merger', *(['teacher'] if several else []))
    for name, view in model.distill.views.items():
        tokenizer = model.distill.tokenizers[view.tokenizer_of[view.taps[0]]].student
        parts = [f'{type(part).__name__}({part.extra_repr()})' for part in (tokenizer, view.merger)]
        table.add_row(name, *parts, *([view.teacher] if several else []))
    return table


def tokens_table(model: nn.Module, student: Mapping[str, Feature], targets: Targets) -> Table:
    """Tokens x channels of one image by view and tap; a cache holds the teacher's in the form that each loss needs."""
    table = new_table('Tokens', 'view', 'tap', 'student', 'teacher')
    with torch.no_grad():
        tokens = model.distill.student_tokens(student, targets.grids)
    for (view, tap), own in tokens.items():
        read = [shape_of(targets.tensors[name, tap]) for name, source in model.distill.source_of.items() if source == view]
        table.add_row(view, tap, shape_of(own), ', '.join(dict.fromkeys(read)))
    return table


def losses_table(model: nn.Module, losses: Mapping[str, torch.Tensor]) -> Table:
    """Terms of the total loss, weighted."""
    table = new_table('Losses (weighted, on two generated images)', 'loss', 'type', 'on', 'weight', 'value')
    for name, value in losses.items():
        loss, cells = model.task_loss, ["the student's task loss", 'labels']
        if name in model.distill.losses:
            loss = next(iter(model.distill.losses[name].values()))  # The losses of several taps have the same settings.
            on = model.distill.source_of[name]
            if len(model.teachers) > 1:
                on += f' ({model.distill.teacher_of[name]})'
            cells = [type(loss).__name__, on]
        table.add_row(name, *cells, weight_of(loss), f'{value.item():.4g}')
    return table


def weight_of(loss: ScheduledSettings) -> str:
    """The weight of a loss, or its schedule, and other settings that are schedules."""
    weight = loss.schedules.get('loss_weight', f'{loss.loss_weight:g}')
    others = [f'{name} {schedule}' for name, schedule in loss.schedules.items() if name != 'loss_weight']
    return ', '.join(map(str, [weight, *others]))


def saved_table(model: nn.Module) -> Table:
    """Entries of a checkpoint by prefix, and how many of them are trained."""
    table = new_table('Trained and saved', 'part of the checkpoint', 'entries', 'trained', 'values', 'needed by')
    trained = {id(weight) for weight in model.parameters() if weight.requires_grad}
    parts: dict[str, list[torch.Tensor]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        parts.setdefault(name.split('.')[0], []).append(value)
    for prefix, part in parts.items():
        needed_by = 'training only' if prefix == 'distill' else 'the plain student'
        num_trained = sum(id(value) in trained for value in part)
        table.add_row(f'{prefix}.*', str(len(part)), str(num_trained), millions(part), needed_by)
    return table


def memory_table(model: nn.Module, saved_bytes: int, batch_size: int) -> Table:
    """Memory of a step in the dtype of the weights; the state of the optimizer is not included."""
    table = new_table(f'Memory of a step of {batch_size} images', 'part', 'MiB')
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    rows = {
        'student': size_of(model.parameters()) + size_of(model.buffers()),
        **{side: size_of(tensors_of(teacher)) for side, teacher in sides_of_teachers(model).items()},
        'gradients': size_of(trained),
        'saved for the backward pass': saved_bytes * batch_size / NUM_IMAGES,
    }
    for part, size in {**rows, 'sum': sum(rows.values())}.items():
        table.add_row(part, f'{size / MIB:,.0f}')
    return table


def cache_table(model: nn.Module, teachers: Mapping[str, Mapping[str, Feature]]) -> Table:
    """What tools/cache_teacher.py stores of the teacher by default, in bytes of an image and view, or what is read."""
    title = (
        'Read from the teacher cache' if is_cached(model) else "The teacher's outputs in a cache (tools/cache_teacher.py)"
    )
    table = new_table(title, 'losses', 'stored as', 'bytes an image and view')
    rows = model.teacher.stored_outputs() if is_cached(model) else planned_outputs(model, teachers)
    for losses, stored, num_bytes in rows:
        table.add_row(', '.join(losses), stored, f'{num_bytes:,}')
    return table


def tensors_of(teacher: FrozenTeacher) -> list[torch.Tensor]:
    """The weights and buffers of a teacher."""
    return [*teacher.parameters(), *teacher.buffers()]


def new_table(title: str, *columns: str) -> Table:
    """An empty table with its title on the left."""
    table = Table(title=title, title_justify='left', title_style='bold', box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow='fold')
    return table


def shape_of(tensor: torch.Tensor) -> str:
    """The shape without the batch dimension."""
    return ' x '.join(map(str, tensor.shape[1:]))


def millions(tensors: Iterable[torch.Tensor]) -> str:
    """The number of values, in millions."""
    return f'{sum(tensor.numel() for tensor in tensors) / 1e6:.2f} M'


def size_of(tensors: Iterable[torch.Tensor]) -> int:
    """The size in bytes."""
    return sum(tensor.nbytes for tensor in tensors)


if __name__ == '__main__':
    with one_line_errors():
        main()
