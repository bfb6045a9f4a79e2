"""Models of Hugging Face, named ``'hf:<name>'`` or given by a dict of a type that wraps one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.config import ConfigDict

from .hugging_face_files import check_name, read_config, read_image_processor
from .model_source import ModelSource

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
            ConfigError: As for :meth:`from_name`.
        """
        where = key if shown == 'a dict' else f'{key}={shown}'
        name = str(config.get('model_name'))
        check_name(name, where)
        read_config(name, where=where)
        processor = read_image_processor(name, where)
        return cls(config, _preprocessor(processor), image_size=_image_size(processor), shown=shown, name=name)


def _preprocessor(processor: Mapping[str, Any]) -> ConfigDict:
    """The normalization of an image processor, for images of 0 to 255."""
    scale = processor.get('rescale_factor', 1 / 255) if processor.get('do_rescale', True) else 1.0
    mean, std = processor.get('image_mean'), processor.get('image_std')
    if not processor.get('do_normalize', True) or mean is None or std is None:
        mean, std = [0.0] * 3, [1.0] * 3
    values = ([round(float(value) / scale, 6) for value in _three(values)] for values in (mean, std))
    return ConfigDict(zip(('mean', 'std'), values, strict=True), to_rgb=True)


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
