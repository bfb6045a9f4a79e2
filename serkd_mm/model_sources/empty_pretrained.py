"""Entries ``init_cfg`` that name no checkpoint."""

import logging
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log


def drop_empty_pretrained(config: Any, key: str) -> None:
    """Remove each ``init_cfg`` of type 'Pretrained' without a checkpoint from a nested config, in place, and log it.

    Configs of the zoo for fine-tuning have these, as a place for a checkpoint. mmengine would try to load ``''``. Without
    it, the module is initialized as if the config had no ``init_cfg``.

    Args:
        config: A model config. Dicts, lists and tuples inside it are searched.
        key: Its config key, for messages.
    """
    if isinstance(config, Mapping):
        given = config.get('init_cfg')
        kept = [entry for entry in _as_list(given) if not _is_empty_pretrained(entry)]
        if len(kept) < len(_as_list(given)):
            print_log(
                f"{key}.init_cfg is of type 'Pretrained' and has no checkpoint: the module starts from random weights. Set "
                f'{key}.init_cfg.checkpoint to start from pretrained ones.',
                logger='current',
                level=logging.WARNING,
            )
            config.pop('init_cfg')
            if kept:
                config['init_cfg'] = kept
        for name, value in config.items():
            drop_empty_pretrained(value, f'{key}.{name}')
    elif isinstance(config, (list, tuple)):
        for index, value in enumerate(config):
            drop_empty_pretrained(value, f'{key}[{index}]')


def _as_list(init_cfg: Any) -> list:
    """The entries of an ``init_cfg``, which may be one dict or a list of them."""
    return list(init_cfg) if isinstance(init_cfg, (list, tuple)) else [init_cfg]


def _is_empty_pretrained(entry: Any) -> bool:
    """Whether an entry of an ``init_cfg`` loads a checkpoint that is empty."""
    if not isinstance(entry, Mapping) or entry.get('checkpoint', '') not in ('', None):
        return False
    return getattr(entry.get('type'), '__name__', entry.get('type')) in ('Pretrained', 'PretrainedInit')
