"""Write the student of a checkpoint alone, for any host.

    python tools/export_student.py CONFIG CHECKPOINT OUT [--cfg-options KEY=VALUE ...]

OUT ends in .pth or .safetensors, and holds the weights in the names of the student's library: `timm.create_model(...,
checkpoint_path=OUT)` and mmpretrain load it, without this package. For a student of Hugging Face, OUT is a folder for
`from_pretrained`. A class head that nothing has trained is left out. The command prints the line that loads the file.
"""

import argparse
import inspect
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from torch import nn

import serkd_mm  # noqa: F401  (registers the components, and reports a missing package)
from serkd_mm.config_errors import ConfigError
from serkd_mm.config_files import OptionsAction, read_config, type_name
from serkd_mm.distillers import RelationDistiller
from serkd_mm.distillers.input_statistics import InputStatistics
from serkd_mm.errors import UserError, one_line_errors
from serkd_mm.fileio.atomic_backend import write_atomically
from serkd_mm.fileio.safe_loading import read_checkpoint
from serkd_mm.heads import TRAINABLE_HEADS
from serkd_mm.hooks.complete_checkpoint_hook import load_all_weights
from serkd_mm.model_sources import find_model
from serkd_mm.model_sources.extras import import_optional
from serkd_mm.model_sources.timm_source import net_settings

SUFFIXES = ('.pth', '.safetensors')


class ExportError(UserError, ValueError):
    """The student cannot be exported. The message says why."""


def main() -> None:
    """Load the student, and write it."""
    args = parse_arguments()
    warnings.simplefilter('ignore')
    if args.out.exists() and args.out.samefile(args.checkpoint):
        raise ExportError(f'{args.out} is the checkpoint itself. Give another file')
    model, source, student = build_student(args.config, args.cfg_options)
    where = repr(str(args.checkpoint))
    checkpoint = read_checkpoint(args.checkpoint, where)
    load_all_weights(student, checkpoint, where)
    meta = checkpoint.get('meta', {}) if isinstance(checkpoint.get('meta'), Mapping) else {}
    untrained = list(meta.get('untrained_head') or ())
    kind = student_kind(student)
    if kind == 'hf':
        report = export_hugging_face(student.model, bool(untrained), args.out)
    else:
        if args.out.suffix not in SUFFIXES:
            raise ExportError(f'{args.out}: the name must end in {" or ".join(SUFFIXES)}')
        weights = trained_weights(student, untrained)
        loading = timm_call(source, student, weights, bool(untrained), args.out) if kind == 'timm' else None
        report = loading or mmpretrain_call(model, source, bool(untrained), args.out)
        write_weights(weights, meta, args.out)
    if untrained:
        print(f'Left out, because nothing has trained it: the class head ({", ".join(untrained)})')
    if meta.get('untrained_layers'):
        print(
            f'Nothing has trained {", ".join(meta["untrained_layers"])}, behind the last block. Read the features of that '
            'block, in timm forward_features()'
        )
    print(f'{describe_input(student.data_preprocessor)}\nWrote {args.out}. To load it:\n{report}')


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of the training')
    parser.add_argument('checkpoint', type=Path, help='a checkpoint of it')
    parser.add_argument('out', type=Path, help='file to write (.pth, .safetensors), or a folder for Hugging Face')
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction, metavar='KEY=VALUE', help='settings to change')
    return parser.parse_args()


def build_student(path: str, options: Mapping[str, Any] | None) -> tuple[Any, Any, nn.Module]:
    """Build the student of a config, without its teacher.

    Args:
        path: The config of a distillation.
        options: Settings of ``--cfg-options``; None if there are none.

    Returns:
        The student's setting ``model``, its source, and the student.

    Raises:
        ConfigError: The model of the config has no student.
    """
    config = read_config(path, options)
    if type_name(config.get('model') or {}) != RelationDistiller.__name__:
        raise ConfigError(f'{path}: the model has no student, because it is no RelationDistiller')
    model = config.model
    model.teacher = model.teachers = None
    model.setdefault('data_preprocessor', config.get('data_preprocessor'))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        student = MODELS.build(model).student
    source = find_model(model.student.model, 'model.student.model')
    if model.get('input_size') is not None:
        source = source.resized(tuple(model.input_size[1:]))  # As the student was built.
    return model.student.model, source, student


def student_kind(student: nn.Module) -> str:
    """Return whose net the student is: 'timm', 'hf' or 'mmpretrain'."""
    names = [base.__name__ for base in type(student).__mro__]
    kinds = {'TimmClassifier': 'timm', 'HuggingFaceClassifier': 'hf'}
    return next((kinds[name] for name in names if name in kinds), 'mmpretrain')


def trained_weights(student: nn.Module, untrained: list[str]) -> dict[str, torch.Tensor]:
    """Return the student's weights in the names of its library, without a head that nothing has trained."""
    return {name: value.contiguous() for name, value in student.state_dict().items() if name not in untrained}


def write_weights(weights: dict[str, torch.Tensor], meta: Mapping[str, Any], path: Path) -> None:
    """Write a file that is complete or does not exist.

    Args:
        weights: The weights by name.
        meta: Meta information of the checkpoint, of which names of classes are kept.
        path: The file; its suffix says in which format.

    Raises:
        WriteError: It cannot be written.
        ConfigError: safetensors is not installed.
    """
    if path.suffix == '.safetensors':
        safetensors = import_optional('safetensors.torch', str(path))
        content = safetensors.save({name: value.clone() for name, value in weights.items()}, metadata={'format': 'pt'})
    else:
        buffer = io.BytesIO()
        kept = {'dataset_meta': meta['dataset_meta']} if meta.get('dataset_meta') else {}
        torch.save({'meta': kept, 'state_dict': weights}, buffer)
        content = buffer.getvalue()
    write_atomically(content, path, 'then run the same command again')


def timm_call(source: Any, student: nn.Module, weights: dict[str, torch.Tensor], headless: bool, path: Path) -> str:
    """Return the line that loads the file, after checking that these settings load these weights.

    Raises:
        ExportError: timm cannot load the weights with the settings of the config.
    """
    timm, settings = import_optional('timm', str(path)), net_settings(source.config)
    name = settings.pop('model_name')
    if headless:
        settings['num_classes'] = 0
    elif getattr(student.model, 'num_classes', None) is not None:
        settings['num_classes'] = student.model.num_classes
    try:
        timm.create_model(name, pretrained=False, **settings).load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ExportError(f'timm.create_model({name!r}, {settings}) does not load the weights: {error}') from error
    arguments = ''.join(f', {setting}={value!r}' for setting, value in settings.items())
    return f'timm.create_model({name!r}{arguments}, checkpoint_path={str(path)!r})'


def mmpretrain_call(model: Any, source: Any, headless: bool, path: Path) -> str:
    """Return what loads the file without this package.

    Args:
        model: The student's setting ``model``.
        source: The source of the student.
        headless: Whether the class head is left out.
        path: The file.
    """
    if isinstance(model, str) and not model.startswith('mmpretrain::'):
        named = repr(model) + (', head=None' if headless else '')
    else:
        config = plain({**source.config.to_dict(), **({'head': None} if headless else {})})
        named = f'mmengine.Config(dict(model={config!r}))'
    if path.suffix == '.safetensors':
        return f'model = mmpretrain.get_model({named})\nmodel.load_state_dict(safetensors.torch.load_file({str(path)!r}))'
    return f'mmpretrain.get_model({named}, pretrained={str(path)!r})'


def plain(config: Any) -> Any:
    """Return a model's config with mmpretrain's own heads, and without what only training needs."""
    if isinstance(config, (list, tuple)):
        return [plain(part) for part in config]
    if not isinstance(config, Mapping):
        return config
    own = {trainable: head for head, trainable in TRAINABLE_HEADS.items()}
    kept = {name: plain(part) for name, part in config.items() if name not in ('train_cfg', 'distilled_training')}
    return {**kept, 'type': own.get(type_name(kept), kept['type'])} if 'type' in kept else kept


def export_hugging_face(net: nn.Module, headless: bool, folder: Path) -> str:
    """Write a folder as ``save_pretrained`` does, and return the line that loads it.

    Raises:
        ExportError: OUT names a file.
    """
    if folder.suffix in SUFFIXES or folder.is_file():
        raise ExportError(f'{folder}: a student of Hugging Face is written to a folder, so give a name without a suffix')
    if headless:
        net = net.base_model
    net.save_pretrained(folder)
    # As it was built: with the pooling layer, which was not trained, transformers would create random weights.
    more = ', add_pooling_layer=False' if 'add_pooling_layer' in inspect.signature(type(net).__init__).parameters else ''
    return f'transformers.{type(net).__name__}.from_pretrained({str(folder)!r}{more})'


def describe_input(preprocessor: nn.Module) -> str:
    """Return how images are normalized for the student."""
    statistics = InputStatistics.from_preprocessor(preprocessor)
    mean, std = ([round(value, 4) for value in values] for values in (statistics.mean, statistics.std))
    unit = [[round(value / 255, 4) for value in values] for values in (statistics.mean, statistics.std)]
    order = ', in RGB if they were read as BGR' if statistics.flipped else ''
    return f'Its input: images of 0 to 255 minus {mean}, divided by {std}{order} (images of 0 to 1: {unit[0]}, {unit[1]})'


if __name__ == '__main__':
    with one_line_errors():
        main()
