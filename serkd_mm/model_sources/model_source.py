"""A model to build, from mmpretrain: given by a dict, a config file or a zoo name. The base of the other sources."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmpretrain.models import BaseClassifier
from torch import nn

from ..config_errors import ConfigError, build_module, first_names
from .hub_file import HubFile
from .preprocessors import check_preprocessor
from .weights_file import WeightsFile, published_hash

ADVICE = 'Set it to a file or URL'


@dataclass(frozen=True)
class ModelSource:
    """A model to build: its config, and what its publisher says about its weights and its input.

    Attributes:
        config: The ``model`` dict.
        data_preprocessor: The preprocessor of its publisher or config file. Default: None, not known.
        weights: URL of the publisher's weights. Default: None, there are none.
        image_size: Height and width of the images that the publisher evaluates the model with. Default: None, not known.
        shown: The model in messages. Default: 'a dict'.
    """

    config: ConfigDict
    data_preprocessor: ConfigDict | None = None
    weights: str | None = None
    image_size: tuple[int, int] | None = None
    shown: str = 'a dict'

    def build(self, key: str, data_preprocessor: Mapping | None = None) -> BaseClassifier:
        """Build the model.

        Args:
            key: Config key of the model, for messages.
            data_preprocessor: Used instead of :attr:`data_preprocessor`, unless the model dict has one inside.
                Default: None.

        Raises:
            ConfigError: The config does not build a classifier of mmpretrain.
        """
        config = deepcopy(self.config)
        default = self.data_preprocessor if data_preprocessor is None else data_preprocessor
        if default is not None:
            config.setdefault('data_preprocessor', deepcopy(default))
        check_preprocessor(config.get('data_preprocessor'), f'{key}.data_preprocessor')
        return build_module(config, BaseClassifier, key)

    @property
    def has_preprocessor(self) -> bool:
        """Whether it is known how the model's input is normalized."""
        return self.data_preprocessor is not None or self.config.get('data_preprocessor') is not None

    def resized(self, image_size: tuple[int, int]) -> 'ModelSource':
        """Return the source of the model for images of another height and width.

        mmpretrain's models resize their position embeddings when they run.
        """
        return self

    def takes_weights(self) -> bool:
        """Return whether the publisher's weights, which are of its own size, fit the model of a :meth:`resized` source."""
        return True

    def published_weights(self, key: str) -> WeightsFile | HubFile:
        """Return the file of the publisher's weights, without reading it.

        Args:
            key: Config key of the checkpoint, for messages.

        Raises:
            ConfigError: Its publisher has no weights for this model.
        """
        if self.weights is None:
            model = f'{key.rpartition(".")[0]}.model is {self.shown}'
            named = self.shown != 'a dict' and not self.shown.endswith(".py'")
            why = "for which mmpretrain's zoo has none" if named else "not a name of mmpretrain's zoo, timm or Hugging Face"
            raise ConfigError(
                f"{key}=True means the weights of the model's publisher, but {model}, {why}. Set {key} to a file or URL"
            )
        return WeightsFile(self.weights, published_hash(self.weights, in_zoo=True))

    def convert(self, state_dict: dict[str, torch.Tensor], model: nn.Module, where: str) -> dict[str, torch.Tensor]:
        """Rename and reshape weights in the publisher's own format into those of the model that was built.

        Args:
            state_dict: Weights by name.
            model: The model that was built from this source.
            where: Start of the error messages.

        Raises:
            ConfigError: Something is missing, or would be left over.
        """
        return state_dict

    def with_config(self, **changes) -> 'ModelSource':
        """Return this source with other settings in its config."""
        return replace(self, config=ConfigDict({**deepcopy(self.config), **changes}))


def evaluated_size(config: Config) -> tuple[int, int] | None:
    """Return the height and width that the test pipeline of a config crops or resizes images to; None if it does not."""
    pipeline = ((config.get('test_dataloader') or {}).get('dataset') or {}).get('pipeline') or []
    sizes = [size for transform in pipeline for size in (transform.get('crop_size'), transform.get('scale')) if size]
    if not sizes:
        return None
    size = sizes[-1]
    return tuple(reversed(size)) if isinstance(size, (tuple, list)) else (size, size)


def same_shapes(state_dict: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]) -> bool:
    """Return whether weights have the names and shapes of a model's own; counters of batches may be missing."""
    if any(name not in own or own[name].shape != value.shape for name, value in state_dict.items()):
        return False
    return all(name in state_dict or name.endswith('num_batches_tracked') for name in own)


def log_left_out(state_dict: Mapping[str, torch.Tensor], converted: Mapping[str, torch.Tensor], where: str) -> None:
    """Log the weights of a file that are neither by name nor by value among those that a converter made of them.

    Args:
        state_dict: The weights of the file.
        converted: The weights in the names and shapes of the model; nothing is missing.
        where: Start of the message.
    """
    names = left_out(state_dict, converted)
    if names:
        print_log(f'{where}: changed or left out by the conversion: {first_names(names)}', logger='current')


def left_out(weights: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names of weights that are neither by name nor by value among others."""
    found = {_value_of(value) for value in others.values()}
    return [name for name, value in weights.items() if name not in others and _value_of(value) not in found]


def _value_of(value: torch.Tensor) -> tuple[int, str]:
    """What two tensors with the same values in another order share."""
    return value.numel(), f'{value.double().sum():.6g}'
