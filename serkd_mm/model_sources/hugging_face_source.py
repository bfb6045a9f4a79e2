"""Models of Hugging Face, named ``'hf:<name>'`` or given by a dict of a type that wraps one."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from torch import nn

from ..config_errors import ConfigError, first_names
from .extras import import_optional
from .hub_file import HubFile
from .hugging_face_files import check_name, find_weights_file, read_config, read_image_processor
from .hugging_face_model import is_classifier, net_settings
from .model_source import ModelSource, same_shapes
from .weights_file import WeightsFile

# Settings of image processors that say how values of pixels change.
_VALUES = (
    'do_rescale',
    'rescale_factor',
    'rescale_offset',
    'do_normalize',
    'image_mean',
    'image_std',
    'include_top',
    'do_flip_channel_order',
)
HUGGING_FACE_TYPES = ('HuggingFaceClassifier', 'HuggingFaceModel')


@dataclass(frozen=True)
class HuggingFaceSource(ModelSource):
    """A model of Hugging Face's hub or in a folder: its normalization and input size are those of its image processor.

    Attributes:
        name: Name of the repository, or the folder.
    """

    name: str = ''

    @classmethod
    def from_name(cls, name: str, key: str) -> 'HuggingFaceSource':
        """Find a model by the name of its repository on the hub, or by its folder.

        Args:
            name: Such as 'facebook/dinov2-small'.
            key: Config key of the model, for messages.

        Raises:
            ConfigError: transformers is not installed, there is no such repository or folder, it cannot be reached, or it
                holds no vision model that transformers can build.
        """
        return cls.from_config(ConfigDict(type='HuggingFaceModel', model_name=name), key, repr(f'hf:{name}'))

    @classmethod
    def from_config(cls, config: ConfigDict, key: str, shown: str = 'a dict') -> 'HuggingFaceSource':
        """Find the model of a dict of type ``HuggingFaceModel`` or ``HuggingFaceClassifier``.

        Args:
            config: The dict.
            key: Its config key, for messages.
            shown: The model in messages. Default: 'a dict'.

        Raises:
            ConfigError: As for :meth:`from_name`; a dict with a ``data_preprocessor`` needs no image processor.
        """
        where = key if shown == 'a dict' else f'{key}={shown}'
        if config.get('pretrained', False):
            raise ConfigError(
                f'{key}.pretrained=True: the weights would be replaced when mmengine initializes the model, and downloaded '
                f'for every evaluation. Leave it out, and set {key.rpartition(".")[0]}.checkpoint=True'
            )
        name = str(config.get('model_name'))
        check_name(name, where)
        read_config(name, where=where)
        if config.get('data_preprocessor') is not None:
            return cls(config, shown=shown, name=name)
        processor = read_image_processor(name, where)
        return cls(config, _preprocessor(processor, where), image_size=_image_size(processor), shown=shown, name=name)

    def published_weights(self, key: str) -> WeightsFile | HubFile:
        """Return the file of the repository or folder, see :meth:`ModelSource.published_weights`."""
        return find_weights_file(self.name)

    def convert(self, state_dict: dict[str, torch.Tensor], model: nn.Module, where: str) -> dict[str, torch.Tensor]:
        """Let transformers rename weights that are not in the names of its present version, or are of a larger model."""
        if same_shapes(state_dict, model.state_dict()):
            return state_dict
        with _quiet():  # What does not match is reported below.
            net, report = type(model.model).from_pretrained(
                None,
                config=model.model.config,
                state_dict=dict(state_dict),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **net_settings(type(model.model)),
            )
        unexpected = sorted(report['unexpected_keys'])
        wrong = {
            'missing': sorted(report['missing_keys']),
            'of another shape': sorted(name for name, *_ in report['mismatched_keys']),
            'unexpected': _of_the_model(unexpected, model.model),
        }
        if any(wrong.values()):
            listed = '; '.join(f'{title} ({len(names)}): {first_names(names)}' for title, names in wrong.items() if names)
            raise ConfigError(f'{where} does not match hf:{self.name}: {listed}')
        if unexpected:
            print_log(f'{where}: not part of the vision model, and not loaded: {first_names(unexpected)}', logger='current')
        return net.state_dict()


def _of_the_model(unexpected: list[str], net: nn.Module) -> list[str]:
    """Those of the names that a model does not have which are not of another part: a text tower, or a pretraining head."""
    parts = {'vision_model', net.base_model_prefix, *(name.partition('.')[0] for name in net.state_dict())}
    is_ours = is_classifier(type(net))
    return [name for name in unexpected if (is_ours or name.partition('.')[0] in parts) and '.pooler.' not in f'.{name}']


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the reports of transformers."""
    log = import_optional('transformers.utils.logging', 'hf')
    before, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(before)
        if bars:
            log.enable_progress_bar()


def _preprocessor(processor: Mapping[str, Any], where: str) -> ConfigDict:
    """The normalization of an image processor, for images of 0 to 255.

    Raises:
        ConfigError: It is not known: neither the file has it, nor transformers the class of the processor.
    """
    defaults = _defaults(processor)
    if defaults is None and processor.get('image_mean') is None and processor.get('do_normalize', True):
        raise ConfigError(
            f'{where}: its image processor has no image_mean, so the normalization is not known. Give the model as a dict '
            'of type HuggingFaceModel with a data_preprocessor inside'
        )
    processor = {**(defaults or {}), **processor}
    scale = processor.get('rescale_factor', 1 / 255) if processor.get('do_rescale', True) else 1.0
    mean, std = (_three(processor.get(name)) for name in ('image_mean', 'image_std'))
    if not processor.get('do_normalize', True) or None in mean + std:
        mean, std = [0.0] * 3, [1.0] * 3
    if processor.get('rescale_offset', False):  # Pixels are rescaled to -1 to 1.
        mean = [value + 1 for value in mean]
    if processor.get('include_top', False):  # EfficientNet's divides by the deviation twice.
        std = [value * value for value in std]
    flipped = bool(processor.get('do_flip_channel_order', False))  # MobileViT's, to BGR.
    values = ([round(float(value) / scale, 6) for value in values[:: -1 if flipped else 1]] for values in (mean, std))
    return ConfigDict(zip(('mean', 'std'), values, strict=True), to_rgb=not flipped)


def _defaults(processor: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the class of an image processor does to values where its file does not say so; None for an unknown class."""
    name = str(processor.get('image_processor_type') or processor.get('feature_extractor_type'))
    with _quiet():
        kind = getattr(import_optional('transformers', 'hf'), re.sub('FeatureExtractor$', 'ImageProcessor', name), None)
        try:
            own = kind()
        except Exception:  # No such class, or it needs settings.
            return None
    return {name: getattr(own, name) for name in _VALUES if hasattr(own, name)}


def _three(values: Any) -> list:
    """One value for each channel."""
    return list(values) if isinstance(values, (list, tuple)) else [values] * 3


def _image_size(processor: Mapping[str, Any]) -> tuple[int, int] | None:
    """The height and width that an image processor crops or resizes images to."""
    for name in ('crop_size', 'size'):
        if not processor.get(f'do_{"center_crop" if name == "crop_size" else "resize"}', True):
            continue
        size = processor.get(name)
        if isinstance(size, int):
            return size, size
        if isinstance(size, Mapping) and 'height' in size:
            return size['height'], size['width']
        if isinstance(size, Mapping) and 'shortest_edge' in size:
            return size['shortest_edge'], size['shortest_edge']
    return None
