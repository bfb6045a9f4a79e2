"""What is distilled, in one page: the pair, its taps, views and losses, what is trained and saved, and the memory of a step.

    python tools/describe.py CONFIG [--cfg-options KEY=VALUE ...]

Builds the model and takes one step on two generated images: no data is needed, and mistakes in the config show in seconds.
The teacher's weights are read where they lie on this machine, and are random otherwise.
"""

import argparse
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from rich.console import Console
from rich.table import Table
from torch import nn

import serkd_mm  # noqa: F401  (registers the components, and says so clearly where a package is missing)
from serkd_mm.distillers.config_errors import ConfigError
from serkd_mm.distillers.teacher_weights import is_at_hand

NUM_IMAGES = 2
MIB = 2**20


def main() -> None:
    """Build, take a step, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='a distillation config')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='as in tools/train.py')
    args = parser.parse_args()
    config = Config.fromfile(args.config)
    config.merge_from_dict(args.cfg_options or {})
    if config.model.type != 'RelationDistiller':
        raise SystemExit(f'{args.config}: model.type is {config.model.type}; only a RelationDistiller distils')
    MMLogger.get_current_instance().setLevel('ERROR')
    warnings.simplefilter('ignore')
    torch.manual_seed(0)
    config.model.setdefault('data_preprocessor', config.get('data_preprocessor'))
    try:
        model = MODELS.build(config.model).train()
    except ConfigError as error:
        raise SystemExit(f'{args.config}: {error}') from None
    step = Step(model)
    console = Console()
    for table in (
        models_table(model, step),
        taps_table(model, step),
        views_table(model, step),
        losses_table(model, step),
        saved_table(model),
        memory_table(model, step, config.train_dataloader.batch_size),
    ):
        console.print(table)
    console.print(step.teacher_weights)


class Step:
    """One step, forward and backward, on generated images, with what it met on its way.

    Args:
        model: The distiller.

    Attributes:
        image_shape: Channels, height and width.
        teacher_weights: Which weights the teacher has, in words.
        features: Features by tap, of the student and of the teacher.
        tokens: Merged tokens by view, of the student and of the teacher.
        losses: Weighted losses by name.
        saved_bytes: What the forward pass keeps for the backward pass, of all images.
    """

    def __init__(self, model: nn.Module) -> None:
        self.image_shape = model.input_size
        self.teacher_weights = self._load_teacher(model)
        self.features: tuple[dict, dict] = ({}, {})
        self.tokens: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        raw = {
            'inputs': torch.randint(0, 256, (NUM_IMAGES, *self.image_shape)).float(),
            'data_samples': [DataSample().set_gt_label(label) for label in range(NUM_IMAGES)],
        }
        batch = model.data_preprocessor(raw, training=True)
        with self._noting(model), count_saved(model) as saved:
            self.losses = model.distillation_step(**batch)
            total = model.parse_losses(self.losses)[0]
        self.saved_bytes = sum(saved.values())
        total.backward()

    @staticmethod
    def _load_teacher(model: nn.Module) -> str:
        checkpoint = model.teacher.checkpoint
        if checkpoint is None or not is_at_hand(checkpoint):
            return f"The teacher's weights ({checkpoint}) are not on this machine: the losses are those of a random one."
        model.teacher.load()
        return f"The teacher's weights: {checkpoint}."

    @contextmanager
    def _noting(self, model: nn.Module) -> Iterator[None]:
        """Note what goes into the losses and out of the views."""

        def note_features(_module: nn.Module, features: tuple) -> None:
            self.features = features

        def note_tokens(name: str) -> Callable:
            return lambda _module, _inputs, pair: self.tokens.__setitem__(name, pair)

        handles = [model.distill.register_forward_pre_hook(note_features)]
        handles += [view.register_forward_hook(note_tokens(name)) for name, view in model.distill.views.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def count_saved(model: nn.Module) -> Iterator[dict[int, int]]:
    """Bytes of each storage that is kept for the backward pass, weights aside."""
    weights = {weight.untyped_storage().data_ptr() for weight in (*model.parameters(), *model.teacher.parameters())}
    saved: dict[int, int] = {}
    kept = []  # Alive, so that no two storages have one address.

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def models_table(model: nn.Module, step: Step) -> Table:
    """Both models."""
    table = new_table('Models', 'side', 'model', 'parameters', 'FLOPs', 'images')
    teacher_shape = (step.image_shape[0], *(model.teacher.input_size or step.image_shape[1:]))
    for side, part, shape in (('student', model.student, step.image_shape), ('teacher', model.teacher.model, teacher_shape)):
        flops = get_model_complexity_info(part, shape, show_table=False, show_arch=False)['flops_str']
        name = type(getattr(part, 'backbone', part)).__name__
        table.add_row(side, name, millions(part.parameters()), flops, 'x'.join(map(str, shape)))
    return table


def taps_table(model: nn.Module, step: Step) -> Table:
    """What is collected on both sides, without the dimension of images."""
    table = new_table('Taps', 'tap', 'student', 'gives', 'teacher', 'gives')
    student, teacher = step.features
    for name in student:
        table.add_row(
            name,
            model.student_taps.paths[name],
            shape_of(student[name].tensor),
            model.teacher.taps.paths[name],
            shape_of(teacher[name].tensor),
        )
    return table


def views_table(model: nn.Module, step: Step) -> Table:
    """Tokens of each view."""
    table = new_table('Views', 'view', 'tap', 'tokenizer', 'merger', 'student tokens', 'teacher tokens')
    for name, view in model.distill.views.items():
        tokenizer, merger = (
            f'{type(part).__name__}({part.extra_repr()})' for part in (view.student.tokenizer, view.student.merger)
        )
        table.add_row(name, view.tap, tokenizer, merger, *map(shape_of, step.tokens[name]))
    return table


def losses_table(model: nn.Module, step: Step) -> Table:
    """Each term of the sum, weighted."""
    table = new_table('Losses (weighted, on two generated images)', 'loss', 'type', 'on', 'weight', 'value')
    for name, value in step.losses.items():
        about = ["the student's own", 'labels', '-']
        if name in model.distill.losses:
            loss = model.distill.losses[name]
            about = [type(loss).__name__, model.distill.on[name], f'{loss.loss_weight:g}']
        table.add_row(name, *about, f'{value.item():.4g}')
    return table


def saved_table(model: nn.Module) -> Table:
    """What is trained, and what a checkpoint holds."""
    table = new_table('Trained and saved', 'part of the checkpoint', 'entries', 'trained', 'numbers', 'for')
    trained = {id(weight) for weight in model.parameters() if weight.requires_grad}
    entries = model.state_dict(keep_vars=True)
    for prefix in dict.fromkeys(name.split('.')[0] for name in entries):
        part = [value for name, value in entries.items() if name.split('.')[0] == prefix]
        purpose = 'training alone' if prefix == 'distill' else 'the plain student'
        own = [value for value in part if id(value) in trained]
        table.add_row(f'{prefix}.*', str(len(part)), str(len(own)), millions(part), purpose)
    return table


def memory_table(model: nn.Module, step: Step, batch_size: int) -> Table:
    """Memory of a step in the number format of the weights; what the optimizer keeps comes on top."""
    table = new_table(f'Memory of a step of {batch_size} images', 'what', 'MiB')
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    rows = {
        'student': size_of(model.parameters()) + size_of(model.buffers()),
        'teacher': size_of(model.teacher.parameters()) + size_of(model.teacher.buffers()),
        'gradients': size_of(trained),
        'kept for the backward pass': step.saved_bytes * batch_size / NUM_IMAGES,
    }
    for what, size in {**rows, 'sum': sum(rows.values())}.items():
        table.add_row(what, f'{size / MIB:,.0f}')
    return table


def new_table(title: str, *columns: str) -> Table:
    """A table with its title at the left."""
    table = Table(title=title, title_justify='left', title_style='bold')
    for column in columns:
        table.add_column(column, overflow='fold')
    return table


def shape_of(tensor: torch.Tensor) -> str:
    """The shape of what there is for one image."""
    return ' x '.join(map(str, tensor.shape[1:]))


def millions(tensors: Any) -> str:
    """How many numbers there are."""
    return f'{sum(tensor.numel() for tensor in tensors) / 1e6:.2f} M'


def size_of(tensors: Any) -> int:
    """Their size in bytes."""
    return sum(tensor.nbytes for tensor in tensors)


if __name__ == '__main__':
    main()
