"""Checkpoints that mmpretrain loads as its own: the plain student, and what only training needs under ``distill.``.

The distiller holds its student as ``student``. That prefix is removed when a state dict is saved and added when it is
loaded. State-dict hooks do this: mmengine and torch both call them, and mmengine does not call ``state_dict()``.
"""

from collections import OrderedDict
from typing import Any

from torch import nn

from .checkpoint_migration import migrate_distill_names

_STUDENT = 'student.'
_DISTILL = 'distill.'


def register_plain_student_hooks(distiller: nn.Module) -> None:
    """Save and load state dicts of ``distiller`` as those of its plain student plus ``distill.*``.

    A distiller without ``distill`` (built for evaluation) ignores ``distill.*`` when it loads.
    """
    distiller._register_state_dict_hook(_strip_prefix)
    distiller._register_load_state_dict_pre_hook(_add_prefix, with_module=True)


def strip_prefix_in_wrapper(wrapper: nn.Module, distiller: nn.Module) -> None:
    """Let a sharding wrapper, which finds gathered weights by their full names, remove the prefix after it has done so.

    Args:
        wrapper: ``FullyShardedDataParallel`` around ``distiller``.
        distiller: The model inside.
    """
    for number in [number for number, hook in distiller._state_dict_hooks.items() if hook is _strip_prefix]:
        del distiller._state_dict_hooks[number]
        wrapper._register_state_dict_hook(_strip_prefix)


def _strip_prefix(_distiller: nn.Module, state_dict: OrderedDict, prefix: str, _metadata: dict) -> None:
    for names in (state_dict, getattr(state_dict, '_metadata', {})):  # The metadata is the version of each module.
        _rename(names, prefix + _STUDENT, prefix)


def _add_prefix(distiller: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    if hasattr(distiller, 'distill'):
        migrate_distill_names(distiller.distill, state_dict, prefix + _DISTILL)
    for name in [name for name in state_dict if name.startswith(prefix)]:
        inner = name[len(prefix) :]
        if not inner.startswith(_DISTILL):
            state_dict[prefix + _STUDENT + inner] = state_dict.pop(name)
        elif not hasattr(distiller, 'distill'):
            del state_dict[name]


def _rename(names: OrderedDict, old: str, new: str) -> None:
    """Replace a prefix, keeping the order."""
    for name in list(names):
        value = names.pop(name)
        names[new + name[len(old) :] if name.startswith(old) else name] = value
