from collections.abc import Mapping
from typing import Any

TRAINABLE_HEADS = {
    'DeiTClsHead': 'DeiTDistilledClsHead',
    'EfficientFormerClsHead': 'EfficientFormerDistilledClsHead',
    'LeViTClsHead': 'LeViTDistilledClsHead',
}
"""Trainable replacement of each mmpretrain head that refuses to train, by registry name."""


def make_heads_trainable(config: Any) -> None:
    """Replace the heads listed in ``TRAINABLE_HEADS`` wherever they are a ``type`` in a nested config, in place.

    Args:
        config: A model config. Dicts, lists and tuples inside it are searched; a ``type`` may be a name, with or without
            its scope, or a class.
    """
    if isinstance(config, Mapping):
        name = getattr(config.get('type'), '__name__', config.get('type'))  # In newer configs, the type is the class.
        name = str(name).rpartition('.')[2]  # Without the scope.
        if name in TRAINABLE_HEADS:
            config['type'] = TRAINABLE_HEADS[name]
        for value in config.values():
            make_heads_trainable(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            make_heads_trainable(value)
