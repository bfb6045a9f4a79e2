"""Checkpoints that mmpretrain loads as its own: the plain student, and what only training needs under ``distill.``.

The distiller holds its student as ``student``. That prefix is removed when a state dict is saved and added when it is
loaded. State-dict hooks do this: mmengine and torch both call them, and mmengine does not call ``state_dict()``.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import is_model_wrapper
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


def _strip_prefix(distiller: nn.Module, state_dict: OrderedDict, prefix: str, metadata: dict) -> None:
    _apply_own_hooks(distiller.student, state_dict, prefix + _STUDENT, metadata)
    for names in (state_dict, getattr(state_dict, '_metadata', {})):  # The metadata is the version of each module.
        _rename(names, prefix + _STUDENT, prefix)


def _apply_own_hooks(student: nn.Module, state_dict: OrderedDict, prefix: str, metadata: dict) -> None:
    """Apply the student's own state-dict hooks in place: torch discards what the hooks of a submodule return.

    mmpretrain's ``TimmClassifier`` and ``HuggingFaceClassifier`` return a new dict with the publisher's names.
    """
    for hook in student._state_dict_hooks.values():
        if getattr(hook, '_from_public_api', False):
            continue  # These change the dict in place, and have done so.
        renamed = hook(student, state_dict, prefix, metadata)
        if renamed is not None and renamed is not state_dict:
            entries = list(renamed.items())
            state_dict.clear()
            state_dict.update(entries)


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


def mismatches(model: nn.Module, state_dict: Mapping[str, torch.Tensor]) -> list[str]:
    """Describe entries of a checkpoint that a model does not have, or that it has in another shape, and those it lacks.

    Args:
        model: Any model. What its modules below ``distill.`` convert when they load counts as fitting.
        state_dict: The checkpoint's entries, which stay as they are.
    """
    model = _unwrapped(model)
    found = {name: tuple(value.shape) for name, value in _converted(model, state_dict).items()}
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    return [
        *(f'{name} is missing' for name in expected if name not in found),
        *(f'{name} is not part of this model' for name in found if name not in expected),
        *(
            f'{name} has shape {found[name]} in the file and {shape} in this model'
            for name, shape in expected.items()
            if found.get(name, shape) != shape
        ),
    ]


def distillation_mismatches(model: nn.Module, state_dict: Mapping[str, torch.Tensor]) -> list[str]:
    """Describe as :func:`mismatches` the entries below ``distill.``; nothing if a file has none, as a plain student."""
    if not any(name.startswith(_DISTILL) for name in state_dict):
        return []
    return [text for text in mismatches(model, state_dict) if text.startswith(_DISTILL)]


def _converted(model: nn.Module, state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the entries after the conversions that the modules below ``distill`` apply when they load."""
    entries = dict(state_dict)
    distill = getattr(model, 'distill', None)
    if distill is None:
        return entries
    migrate_distill_names(distill, entries, _DISTILL)
    for name, module in distill.named_modules():
        prefix = f'{_DISTILL}{name}.' if name else _DISTILL
        for hook in module._load_state_dict_pre_hooks.values():
            hook(entries, prefix, {}, False, [], [], [])
    return entries


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model
