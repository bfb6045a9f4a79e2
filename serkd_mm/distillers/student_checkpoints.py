"""Checkpoints that mmpretrain loads as its own: the plain student, and what only training needs under ``distill.``.

The distiller holds its student as ``student``; in a state dict that prefix is taken off when it is written and put back
when it is read. Hooks do this, because mmengine and torch both honour hooks, and mmengine does not call ``state_dict()``.
"""

from collections import OrderedDict
from typing import Any

from torch import nn

_STUDENT = 'student.'
_DISTILL = 'distill.'


def save_as_plain_student(distiller: nn.Module) -> None:
    """Make every state dict of ``distiller`` that of its plain student plus ``distill.*``, and read such dicts again.

    A distiller without ``distill`` (one built for evaluation) passes over ``distill.*`` when it reads.
    """
    distiller._register_state_dict_hook(_write)
    distiller._register_load_state_dict_pre_hook(_read, with_module=True)


def _write(_distiller: nn.Module, state_dict: OrderedDict, prefix: str, _metadata: dict) -> None:
    student = prefix + _STUDENT
    _rename(state_dict, student, prefix)
    versions = getattr(state_dict, '_metadata', None)
    if versions is not None:
        _rename(versions, student, prefix)


def _read(distiller: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
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
