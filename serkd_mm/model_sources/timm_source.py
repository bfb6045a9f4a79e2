"""Models of timm, named ``'timm:<name>'`` or given by a dict of mmpretrain's ``TimmClassifier``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.config import ConfigDict

from ..config_errors import ConfigError, suggest
from .extras import import_optional
from .model_source import ModelSource

TIMM_TYPES = ('TimmClassifier',)


@dataclass(frozen=True)
class TimmSource(ModelSource):
    """A model of timm: its normalization, input size and weights are those of timm's ``pretrained_cfg``.

    Attributes:
        published: The ``pretrained_cfg``, as a dict.
    """

    published: Mapping[str, Any] | None = None

    @classmethod
    def from_name(cls, name: str, key: str) -> 'TimmSource':
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
    def from_config(cls, config: ConfigDict, key: str, shown: str = 'a dict') -> 'TimmSource':
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
        published = _pretrained_cfg(config.get('model_name'), where)
        preprocessor = {**{name: _scaled(published[name]) for name in ('mean', 'std')}, 'to_rgb': True}
        return cls(
            config, ConfigDict(preprocessor), image_size=tuple(published['input_size'][1:]), shown=shown, published=published
        )

    def resized(self, image_size: tuple[int, int]) -> 'ModelSource':
        """Return the source of the model for images of another height and width, if its size is fixed when it is built."""
        if not self.published.get('fixed_input_size', False) or 'img_size' in self.config:
            return self
        return self.with_config(img_size=tuple(image_size))


def _pretrained_cfg(name: Any, where: str) -> dict[str, Any]:
    """What timm publishes about a model, by its name with or without a tag."""
    models = import_optional('timm.models', where)
    architecture, _, tag = str(name).partition('.')
    if not models.is_model(architecture):
        raise ConfigError(f'{where}: timm has no model of this name. {suggest(architecture, models.list_models())}')
    tags = [full.partition('.')[2] for full in models.list_models(f'{architecture}.*', include_tags=True)]
    if tag and tag not in tags:
        raise ConfigError(f'{where}: {architecture} has no weights of this tag. {suggest(tag, tags)}')
    published = models.get_pretrained_cfg(name)
    if published is None:
        raise ConfigError(f'{where}: timm knows neither size nor normalization of this model')
    return published.to_dict()


def _scaled(values: tuple[float, ...]) -> list[float]:
    """Values for images of 0 to 1, for images of 0 to 255."""
    return [round(255 * value, 6) for value in values]
