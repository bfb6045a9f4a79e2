"""How a model runs, without a change of what it computes: compiled, and in the memory format that convolutions like."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import nn

from .config_errors import ConfigError


@dataclass(frozen=True)
class Acceleration:
    """The settings ``compile`` and ``channels_last`` of a student or a teacher.

    Attributes:
        key: Config key of the model's settings, for messages.
        compile: What ``torch.compile`` is told beside what to compile; None leaves the model as it is.
        channels_last: Whether weights of convolutions lie channels last, and with them the maps between them.
    """

    key: str
    compile: dict[str, Any] | None
    channels_last: bool

    @classmethod
    def of(cls, config: Mapping, key: str) -> 'Acceleration':
        """Read the settings: ``compile`` is a bool or, as for mmengine's runner, a dict for ``torch.compile``.

        Raises:
            ConfigError: A setting is of another type.
        """
        compiling, channels_last = config.get('compile', False), config.get('channels_last', False)
        if not isinstance(compiling, (bool, Mapping)):
            raise ConfigError(f'{key}.compile must be True, False or a dict for torch.compile, but is {compiling!r}')
        if not isinstance(channels_last, bool):
            raise ConfigError(f'{key}.channels_last must be True or False, but is {channels_last!r}')
        settings = dict(compiling) if isinstance(compiling, Mapping) else {} if compiling else None
        return cls(key, settings, channels_last)

    def lay_out(self, model: nn.Module) -> None:
        """Lay the model's weights out as ``channels_last`` says; its convolutions then do so with maps."""
        if self.channels_last:
            model.to(memory_format=torch.channels_last)

    def compile_backbone(self, model: nn.Module, tapped: Collection[nn.Module]) -> None:
        """Compile the backbone as ``compile`` says, in pieces as large as the taps allow; happens at their first run.

        Hooks, which taps are, can not look into what is compiled: a piece holds no tapped module unless it is one.

        Args:
            model: The student or the teacher.
            tapped: Modules whose outputs are collected.

        Raises:
            ConfigError: The model has no backbone, or ``torch.compile`` knows a setting not.
        """
        if self.compile is None:
            return
        if not isinstance(getattr(model, 'backbone', None), nn.Module):
            raise ConfigError(f'{self.key}.compile: {type(model).__name__} has no backbone that could be compiled')
        _use_numbers_of_python(model.backbone)
        try:
            _compile(model.backbone, set(tapped), self.compile)
        except (TypeError, RuntimeError) as error:
            raise ConfigError(f'{self.key}.compile={self.compile}: {error}') from error


def _compile(module: nn.Module, tapped: set[nn.Module], settings: dict[str, Any]) -> None:
    """Compile a module, or its children where a tap is among what it holds, or where it has no forward of its own."""
    holds_tap = any(inner in tapped for inner in module.modules() if inner is not module)
    if holds_tap or isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        for child in module.children():
            _compile(child, tapped, settings)
    elif next(module.children(), None) is not None:  # A single layer has nothing that could be fused.
        # A method, and not the module's own compile(): a copy of the module (an EMA model) binds it to itself, and hooks
        # stay outside.
        module.forward = MethodType(torch.compile(_piece(type(module).forward), **settings), module)


def _piece(forward: Callable) -> FunctionType:
    """A function of its own that runs a forward: torch limits how often it compiles one, and here that is once or twice."""

    def run(module: nn.Module, *inputs: Any, **settings: Any) -> Any:
        return forward(module, *inputs, **settings)

    return FunctionType(run.__code__.replace(), run.__globals__, run.__name__, None, run.__closure__)


def _use_numbers_of_python(model: nn.Module) -> None:
    """Replace settings that are numbers of numpy (rates of stochastic depth are): torch would take them for tensors."""
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, np.generic):
                setattr(module, name, value.item())
