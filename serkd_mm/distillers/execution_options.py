"""How a model is executed: compilation and memory format, which do not change its results."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import nn

from ..config_errors import ConfigError, check_boolean
from .model_parts import backbone_of


@dataclass(frozen=True)
class ExecutionOptions:
    """The settings ``compile`` and ``channels_last`` of a student or a teacher.

    Attributes:
        key: Config key of the model's settings, for messages.
        compile: Arguments of ``torch.compile``; None does not compile.
        channels_last: Whether weights of convolutions, and so the maps between them, are in channels-last format.
    """

    key: str
    compile: dict[str, Any] | None
    channels_last: bool

    @classmethod
    def from_config(cls, config: Mapping, key: str) -> 'ExecutionOptions':
        """Read the settings: ``compile`` is a bool or, as for mmengine's runner, a dict of arguments of ``torch.compile``.

        Raises:
            ConfigError: A setting has the wrong type.
        """
        compiling = config.get('compile', False)
        channels_last = check_boolean(config.get('channels_last', False), f'{key}.channels_last')
        if not isinstance(compiling, (bool, Mapping)):
            raise ConfigError(f'{key}.compile must be True, False or a dict for torch.compile, but is {compiling!r}')
        settings = dict(compiling) if isinstance(compiling, Mapping) else {} if compiling else None
        return cls(key, settings, channels_last)

    def apply_memory_format(self, model: nn.Module) -> None:
        """Convert the model's weights to channels last if the setting is on; its convolutions then convert the maps."""
        if self.channels_last:
            model.to(memory_format=torch.channels_last)

    def compile_backbone(self, model: nn.Module, tapped: Collection[nn.Module]) -> None:
        """Compile the backbone if the setting is on, in parts as large as the taps allow, at their first run.

        Taps are hooks, which do not run inside compiled code: a compiled part contains no tapped module unless it is one.

        Args:
            model: The student or the teacher.
            tapped: The tapped modules.

        Raises:
            ConfigError: The model has no backbone, or ``torch.compile`` rejects a setting.
        """
        if self.compile is None:
            return
        backbone = backbone_of(model)
        if backbone is None:
            raise ConfigError(f'{self.key}.compile: {type(model).__name__} has no backbone to compile')
        _replace_numpy_scalars(backbone)
        try:
            _compile(backbone, set(tapped), self.compile, f'{self.key}.compile')
        except (TypeError, RuntimeError) as error:
            raise ConfigError(f'{self.key}.compile={self.compile}: {error}') from error


def is_compiled(module: nn.Module) -> bool:
    """Return whether :meth:`ExecutionOptions.compile_backbone` has compiled this module: taps inside it would not run."""
    return getattr(module, 'is_compiled_part', False)


def _compile(module: nn.Module, tapped: set[nn.Module], settings: dict[str, Any], key: str) -> None:
    """Compile a module, or its children if one of them is tapped or if the module has no forward of its own."""
    holds_tap = any(inner in tapped for inner in module.modules() if inner is not module)
    if holds_tap or isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        for child in module.children():
            _compile(child, tapped, settings, key)
    elif next(module.children(), None) is not None:  # In a single layer there is nothing to fuse.
        # A bound method instead of module.compile(): a copy of the module (an EMA model) runs its own weights, and hooks
        # stay outside.
        compiled = torch.compile(_separate_function(type(module).forward), **settings)
        module.forward = MethodType(_name_compiler_errors(compiled, key), module)
        module.is_compiled_part = True


def _separate_function(forward: Callable) -> FunctionType:
    """Wrap a forward in a new function: torch limits recompilation per code object, which all blocks would share."""

    def run(module: nn.Module, *inputs: Any, **settings: Any) -> Any:
        return forward(module, *inputs, **settings)

    return FunctionType(run.__code__.replace(), run.__globals__, run.__name__, None, run.__closure__)


def _name_compiler_errors(compiled: Callable, key: str) -> Callable:
    """Add the config key to errors of the compiler, which runs at the first call."""

    def run(module: nn.Module, *inputs: Any, **settings: Any) -> Any:
        try:
            return compiled(module, *inputs, **settings)
        except RuntimeError as error:
            if type(error).__module__ not in ('torch._dynamo.exc', 'torch._inductor.exc'):
                raise
            reason = str(error).strip().split('\n\n')[0]
            raise ConfigError(
                f'{key}: the compiler failed; leave the setting out, or install what is missing (a C++ compiler, and Triton '
                f'for a GPU). {type(error).__name__}: {reason}'
            ) from error

    return run


def _replace_numpy_scalars(model: nn.Module) -> None:
    """Replace settings that are NumPy scalars (drop-path rates are): torch.compile would treat them as tensors."""
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, np.generic):
                setattr(module, name, value.item())
