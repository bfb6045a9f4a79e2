"""Models of timm, named ``'timm:<name>'`` or given by a dict of mmpretrain's ``TimmClassifier``."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from torch import nn

from ..config_errors import ConfigError, first_lines, first_names, suggest
from ..seeding import seeded
from .extras import import_optional
from .hub_file import HubFile
from .model_source import ADVICE, ModelSource, left_out, log_left_out, same_shapes
from .weights_file import WeightsFile, published_hash

TIMM_TYPES = ('TimmClassifier',)
# Settings of mmpretrain's class, which timm does not know.
_WRAPPER_SETTINGS = ('type', '_scope_', 'loss', 'train_cfg', 'with_cp', 'data_preprocessor', 'init_cfg', 'pretrained')
# File names there end in the first digits of the SHA-256.
_OWN_RELEASES = '/pytorch-image-models/releases/'


@dataclass(frozen=True)
class TimmSource(ModelSource):
    """A model of timm: its normalization, input size and weights are those of timm's ``pretrained_cfg``.

    Attributes:
        published: The ``pretrained_cfg``, as a dict.
    """

    published: Mapping[str, Any] | None = None

    @classmethod
    def from_name(cls, name: str, key: str) -> ModelSource:
        """Find a model by its name in timm, with or without the tag of its weights.

        Args:
            name: Such as 'resnet18' or 'resnet18.a1_in1k'.
            key: Config key of the model, for messages.

        Raises:
            ConfigError: timm is not installed, or has no such model or tag.
        """
        config = ConfigDict(type='TimmClassifier', model_name=name, pretrained=False)
        return cls.from_config(config, key, repr(f'timm:{name}'))

    @classmethod
    def from_config(cls, config: ConfigDict, key: str, shown: str = 'a dict') -> ModelSource:
        """Find the model of a dict of type ``TimmClassifier``.

        Args:
            config: The dict.
            key: Its config key, for messages.
            shown: The model in messages. Default: 'a dict'.

        Raises:
            ConfigError: As for :meth:`from_name`, or the dict asks timm to load pretrained weights.
        """
        where = key if shown == 'a dict' else f'{key}={shown}'
        if config.get('pretrained', False):
            raise ConfigError(
                f"{key}.pretrained=True: timm's weights would be replaced when mmengine initializes the model, and "
                f'downloaded for every evaluation. Leave it out, and set {key.rpartition(".")[0]}.checkpoint=True'
            )
        if config.get('checkpoint_path'):
            raise ConfigError(
                f'{key}.checkpoint_path: these weights would be replaced when mmengine initializes the model. Set '
                f'{key.rpartition(".")[0]}.checkpoint={config["checkpoint_path"]!r} instead'
            )
        published = _pretrained_cfg(config.get('model_name'), where)
        if published is None:  # A model that the user has registered: nothing is known but the dict.
            return ModelSource(config, shown=shown)
        preprocessor = {**{name: _scaled(published[name]) for name in ('mean', 'std')}, 'to_rgb': True}
        size = config.get('img_size') or tuple(published['input_size'][1:])
        size = size if isinstance(size, (tuple, list)) else (size, size)
        return cls(config, ConfigDict(preprocessor), image_size=tuple(size), shown=shown, published=published)

    def resized(self, image_size: tuple[int, int]) -> 'ModelSource':
        """Return the source of the model for images of another height and width, if its size is fixed when it is built."""
        if not self.published.get('fixed_input_size', False) or 'img_size' in self.config:
            return self
        return self.with_config(img_size=tuple(image_size))

    def takes_weights(self) -> bool:
        """Return whether timm reshapes the weights for another image size, tried without data; of some nets it cannot."""
        settings = net_settings(self.config)
        create_model = import_optional('timm', self.shown).create_model
        overlay = settings.pop('pretrained_cfg_overlay', {})
        try:
            with torch.device('meta'):
                weights = create_model(**{name: value for name, value in settings.items() if name != 'img_size'})
                overlay = {**overlay, 'state_dict': weights.state_dict()}
                create_model(**settings, pretrained=True, pretrained_cfg_overlay=overlay)
        except Exception as error:  # Also what cannot be tried without data.
            return 'size mismatch' not in str(error)
        return True

    def published_weights(self, key: str) -> WeightsFile | HubFile:
        """Return the file that timm names, see :meth:`ModelSource.published_weights`."""
        repository, url = self.published.get('hf_hub_id'), self.published.get('url')
        if repository:
            return HubFile(repository, _hub_names(self.published.get('hf_hub_filename')))
        if self.published.get('custom_load'):
            raise ConfigError(f'{key}=True: only timm reads the format of the weights of {self.shown}. {ADVICE}')
        if not url:
            architecture = self.published['architecture']
            tags = import_optional('timm.models', key).list_pretrained(f'{architecture}.*')
            raise ConfigError(f'{key}=True: timm has no weights for {self.shown}. {suggest(architecture, tags)} {ADVICE}')
        return WeightsFile(url, published_hash(url, in_zoo=_OWN_RELEASES in url))

    def convert(self, state_dict: dict[str, torch.Tensor], model: nn.Module, where: str) -> dict[str, torch.Tensor]:
        """Let timm rename and reshape weights that are not in its names, or are those of another image size."""
        own = model.state_dict()
        if not model.model.num_classes:
            state_dict = self._without_head(state_dict, where)
        if same_shapes(state_dict, own):
            return state_dict
        settings = net_settings(self.config)
        # timm drops a classifier without a word where the number of classes differs: so it must not see a difference.
        overlay = {**settings.pop('pretrained_cfg_overlay', {}), 'num_classes': model.model.num_classes}
        pretrained = {'pretrained': True, 'pretrained_cfg_overlay': {**overlay, 'state_dict': dict(state_dict)}}
        try:
            converted = self._created(**settings, **pretrained)
        except Exception as error:  # timm's converters raise many kinds of errors for weights of another model.
            raise ConfigError(f'{where} does not match {self._shown_model}: {first_lines(error, width=200)}') from error
        # Some of timm's builders decide that weights may be missing, and do not say which were.
        if unknown := left_out(converted, state_dict):
            fresh = self._created(**settings)
            self._check_loaded([name for name in unknown if torch.equal(converted[name], fresh[name])], fresh, where)
        log_left_out(state_dict, converted, where)
        return converted

    def _created(self, **settings) -> dict[str, torch.Tensor]:
        """The state dict of a model of timm; what is random in it is the same each time."""
        with seeded(0):
            return import_optional('timm', self.shown).create_model(**settings).state_dict()

    def _check_loaded(self, names: list[str], fresh: dict[str, torch.Tensor], where: str) -> None:
        """Report what no weight of a file was loaded into. What starts as a constant does nothing yet: most are norms.

        Raises:
            ConfigError: Some of it is random.
        """
        names = [name for name in names if fresh[name].is_floating_point()]
        random = [name for name in names if fresh[name].min() != fresh[name].max()]
        if random:
            raise ConfigError(f'{where} does not match {self._shown_model}: missing ({len(random)}): {first_names(random)}')
        if names:
            print_log(
                f'{where} has no {first_names(names)}, which keep their initial values',
                logger='current',
                level=logging.WARNING,
            )

    def _without_head(self, state_dict: dict[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
        """The weights without those of the classifier, for a model that is built without one."""
        heads = self.published.get('classifier') or ()
        heads = (heads,) if isinstance(heads, str) else tuple(heads)
        dropped = [name for name in state_dict if name.startswith(tuple(f'{head}.' for head in heads))]
        if dropped:
            print_log(f'{where}: the model has no class head; not loaded: {", ".join(dropped)}', logger='current')
        return {name: value for name, value in state_dict.items() if name not in dropped}

    @property
    def _shown_model(self) -> str:
        """The model by its name in timm, for messages."""
        return f'timm:{self.config.model_name}'


def net_settings(config: Mapping) -> dict[str, Any]:
    """Return the arguments of ``timm.create_model`` in a dict of type ``TimmClassifier``."""
    return {name: value for name, value in config.items() if name not in _WRAPPER_SETTINGS}


def _hub_names(name: str | None) -> tuple[str, ...]:
    """The names that a file of weights may have in a repository of timm; of one format each, the safe one first."""
    if name is None:
        return 'model.safetensors', 'pytorch_model.bin'
    return (name,) if name.endswith('.safetensors') else (f'{name.rpartition(".")[0]}.safetensors', name)


def _pretrained_cfg(name: Any, where: str) -> dict[str, Any] | None:
    """What timm publishes about a model, by its name with or without a tag; None if it publishes nothing."""
    models = import_optional('timm.models', where)
    architecture, _, tag = str(name).partition('.')
    if not models.is_model(architecture):
        raise ConfigError(f'{where}: timm has no model of this name. {suggest(architecture, models.list_models())}')
    tags = [full.partition('.')[2] for full in models.list_models(f'{architecture}.*', include_tags=True)]
    if tag and tag not in tags:
        raise ConfigError(f'{where}: {architecture} has no weights of this tag. {suggest(tag, tags)}')
    published = models.get_pretrained_cfg(name)
    return None if published is None else published.to_dict()


def _scaled(values: tuple[float, ...]) -> list[float]:
    """Values for images of 0 to 1, for images of 0 to 255."""
    return [round(255 * value, 6) for value in values]
