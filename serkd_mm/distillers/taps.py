"""Taps: features collected from inside a model, given by module path.

A path names the module whose output is the feature, ``'backbone.layers[-1]'``. After it, separated by ``|``, may stand
modules of the same model that are applied to the channels at every position: ``'backbone.layer4 | head.fc'`` is the dense
logits of a CNN, and ``'backbone.layers[-1] | backbone.ln1 | head.layers.head_dist'`` those of a transformer's patch tokens.
They must map each vector alone; norms with statistics of the batch are refused. They run after the model, and the student's
are trained through them. Tokens keep their class tokens, which a tokenizer then removes; maps are ``(B, K, H, W)``.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..config_errors import ConfigError, suggest
from ..tokenizers import Feature
from .dense_features import apply_at_positions, check_row_module
from .execution_options import is_compiled
from .model_parts import num_extra_tokens_of

_STEP = re.compile(r'(?:^|\.)(?P<name>\w+)|\[(?P<index>-?\d+)\]')


class _AllCollected(Exception):
    """Raised inside a model when its last tap has been collected, to end the run."""


@dataclass(frozen=True)
class _Tap:
    """Where a path leads to.

    Attributes:
        module: The module whose output is the feature.
        applied: Modules that are applied at every position of it.
        num_extra_tokens: Number of leading class, distillation or register tokens; None if it is not known.
    """

    module: nn.Module
    applied: tuple[nn.Module, ...]
    num_extra_tokens: int | None


class Taps:
    """Named taps into one model.

    Args:
        model: The model whose modules are tapped.
        paths: Module path of each tap: names joined by dots, ``[i]`` into a list of modules, negative from its end; and,
            each after a ``|``, those of modules that are applied at every position.
        used: Names of the taps that a loss reads; the others are ignored.
        key: Config key of ``paths``, for messages.

    Raises:
        ConfigError: A used tap is missing, its path does not lead to a module, or a module cannot be applied at every
            position.

    Attributes:
        paths: Path of each used tap, in the form of :func:`canonical_path`.
    """

    def __init__(self, model: nn.Module, paths: Mapping[str, str] | None, used: Collection[str], key: str) -> None:
        self.paths = _select(paths, used, key)
        self.key = key
        self._model = model
        self._taps = {name: _find_tap(model, path, f'{key}.{name}') for name, path in self.paths.items()}

    def move(self, name: str, path: str) -> None:
        """Collect the output of another module from now on.

        Args:
            name: Name of the tap.
            path: Its new path.

        Raises:
            ConfigError: The path does not lead to a module, or to one inside a part that is compiled as a whole.
        """
        path = canonical_path(path)
        self._taps[name] = _find_tap(self._model, path, f'{self.key}.{name}')
        self.paths[name] = path

    @property
    def modules(self) -> list[nn.Module]:
        """The tapped modules."""
        return [tap.module for tap in self._taps.values()]

    @contextmanager
    def record(self, image_size: tuple[int, int], stop: bool = False) -> Iterator[dict[str, Feature]]:
        """Collect the outputs of the tapped modules while the model runs; hooks exist only in this context.

        Args:
            image_size: Height and width in pixels of the images.
            stop: Whether to end the context, and with it the run of the model, as soon as all taps are collected. A tap that
                would run twice is then not noticed. Default: False.

        Yields:
            The features by tap, complete when the context ends.

        Raises:
            ConfigError: A tapped module did not run, ran twice, did not return a single tensor, or ran without a graph in a
                model that runs with one; or its output was modified in place afterwards. Or a module that is applied at
                every position does not fit.
        """
        features: dict[str, Feature] = {}
        versions: dict[str, int] = {}
        with ExitStack() as hooks:
            for name, tap in self._taps.items():
                hook = self._hook(name, image_size, features, versions, stop)
                hooks.enter_context(tap.module.register_forward_hook(hook))
            with suppress(_AllCollected):
                yield features
        for name in self._taps:
            if name not in features:
                raise ConfigError(f'{self._where(name)} was not run by the model, so it has no feature to distill')
        # Only now, without hooks: another tap may be at a module that is applied here.
        dense = {
            name: apply_at_positions(features[name], tap.applied, self._where(name))
            for name, tap in self._taps.items()
            if tap.applied
        }
        for name in self._taps:
            # The losses would read what an inplace activation has made of it.
            if _version(features[name].tensor) != versions[name]:
                raise ConfigError(
                    f'{self._where(name)}: the model modifies this output in place afterwards, mostly by an inplace '
                    'activation. Tap the module that does, or set inplace=False there'
                )
        features.update(dense)

    def _hook(
        self, name: str, image_size: tuple[int, int], features: dict[str, Feature], versions: dict[str, int], stop: bool
    ) -> Callable:
        needs_graph = torch.is_grad_enabled()

        def collect(_module: nn.Module, _inputs: tuple, output: Any) -> None:
            tensor = single_tensor(output)
            if tensor is None:
                raise ConfigError(f'{self._where(name)} returns {type(output).__name__}, and a tap needs one tensor')
            if name in features:
                raise ConfigError(f'{self._where(name)} runs more than once per image, so the tap is ambiguous')
            if needs_graph and not torch.is_grad_enabled():
                raise ConfigError(
                    f'{self._where(name)} runs without a graph, for example inside a block with gradient checkpointing '
                    '(with_cp=True), so a loss on it would not train the student. Tap the whole block, or do without '
                    'checkpointing'
                )
            features[name] = Feature(tensor, image_size, self._taps[name].num_extra_tokens)
            versions[name] = _version(tensor)
            if stop and len(features) == len(self._taps):
                raise _AllCollected

        return collect

    def _where(self, name: str) -> str:
        return f'{self.key}.{name}={self.paths[name]!r}'


def canonical_path(path: Any) -> Any:
    """Return the path of a tap with one space around each ``|``; caches find outputs by it. Anything else stays as it is."""
    return ' | '.join(part.strip() for part in path.split('|')) if isinstance(path, str) else path


def expand_path(model: nn.Module, pattern: str, key: str) -> list[str]:
    """Return the path of each module of a list, in order.

    Args:
        model: The model.
        pattern: A path with ``[{}]`` after the list, such as ``'backbone.layers[{}] | backbone.ln1'``.
        key: Config key, for messages.

    Raises:
        ConfigError: There is no such list.
    """
    path, marker, rest = pattern.partition('[{}]')
    if not marker or '{}' in rest:
        raise ConfigError(f"{key}={pattern!r} must have one [{{}}], as 'backbone.layers[{{}}]' has, or be a list of paths")
    modules = _follow(model, path, key)[-1]
    if not isinstance(modules, (nn.ModuleList, nn.Sequential)):
        raise ConfigError(f'{key}={pattern!r}: {path!r} is not a list of modules')
    return [f'{path}[{number}]{rest}' for number in range(len(modules))]


def single_tensor(output: Any) -> torch.Tensor | None:
    """Return the only tensor in a module's output, bare or in a tuple; otherwise None."""
    if isinstance(output, (tuple, list)):
        tensors = [item for item in output if isinstance(item, torch.Tensor)]
        (output,) = tensors if len(tensors) == 1 else (None,)
    return output if isinstance(output, torch.Tensor) else None


def _version(tensor: torch.Tensor) -> int:
    """A number that grows with each modification in place; tensors of inference mode have none."""
    return 0 if tensor.is_inference() else tensor._version


def _select(paths: Any, used: Collection[str], key: str) -> dict[str, str]:
    """The paths of the taps that a loss reads."""
    paths = {} if paths is None else paths
    if not isinstance(paths, Mapping):
        raise ConfigError(f'{key} must be a dict of module paths, but is {paths!r}')
    for name in sorted(used):
        if paths.get(name) is None:
            raise ConfigError(f'{key} has no {name!r}, which a view or loss reads. {suggest(name, paths)}')
    return {name: canonical_path(paths[name]) for name in sorted(used)}


def _find_tap(model: nn.Module, path: Any, key: str) -> _Tap:
    """Find the modules that the path of a tap names."""
    first, *others = path.split(' | ') if isinstance(path, str) else [path]
    trail = _follow(model, first, key)
    if any(map(is_compiled, trail[:-1])):
        raise ConfigError(
            f'{key}={path!r} lies inside a part of the model that is compiled as a whole, where nothing can be tapped. Set '
            'compile=False for this model'
        )
    counts = [number for module in trail if (number := num_extra_tokens_of(module)) is not None]
    applied = tuple(_follow(model, other, key)[-1] for other in others)
    for module in applied:
        check_row_module(module, f'{key}={path!r}')
    return _Tap(trail[-1], applied, counts[-1] if counts else None)


def _follow(model: nn.Module, path: Any, key: str) -> list[nn.Module]:
    """The modules along a path without ``|``, from the model itself to the one it names."""
    steps = list(_STEP.finditer(path)) if isinstance(path, str) else []
    if not steps or ''.join(step.group() for step in steps) != path:
        raise ConfigError(f"{key}={path!r} is not a module path such as 'backbone.layers[-1]'")
    trail = [model]
    for step in steps:
        children = dict(trail[-1].named_children())
        done = path[: step.start()] or type(model).__name__
        if step['name'] is not None:
            if step['name'] not in children:
                raise ConfigError(
                    f'{key}={path!r}: {done!r} has no module {step["name"]!r}. {suggest(step["name"], children)}'
                )
            trail.append(children[step['name']])
            continue
        index = int(step['index'])
        if not isinstance(trail[-1], (nn.ModuleList, nn.Sequential)):
            raise ConfigError(f'{key}={path!r}: {done!r} is not a list of modules. {suggest("", children)}')
        if not -len(children) <= index < len(children):
            raise ConfigError(f'{key}={path!r}: {done!r} has {len(children)} modules, so there is no [{index}]')
        trail.append(trail[-1][index])
    return trail
