"""Dense features: modules of a model, such as its classifier, applied at every position of a feature."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ..config_errors import ConfigError
from ..tokenizers import Feature


def check_row_module(module: nn.Module, key: str) -> None:
    """Check that a module does not relate the rows that it is applied to.

    Args:
        module: The module.
        key: Config key of the tap and its value, for messages.

    Raises:
        ConfigError: The module is or holds a norm with statistics of the batch, which positions must not enter.
    """
    norms = [type(norm).__name__ for norm in module.modules() if isinstance(norm, _NormBase)]
    if norms:
        raise ConfigError(
            f'{key}: {norms[0]} cannot be applied at every position, because its statistics are those of whole images. Only '
            'modules that map each vector alone can, such as a linear layer or a LayerNorm'
        )


def apply_at_positions(feature: Feature, modules: Iterable[nn.Module], key: str) -> Feature:
    """Apply modules to the channels at every position of a feature, as rows ``(B * positions, C)``.

    Args:
        feature: Tokens ``(B, N, C)``, class tokens included, a map ``(B, C, H, W)`` or ``(B, H, W, C)``, or ``(B, C)``.
        modules: Modules that map rows ``(M, C)`` to rows ``(M, K)``, one after another.
        key: Config key of the tap and its value, for messages.

    Returns:
        Tokens ``(B, N, K)``, a map ``(B, K, H, W)``, or ``(B, K)``.

    Raises:
        ConfigError: The feature has no channels, or a module does not map rows to rows.
    """
    tensor = feature.tensor
    if tensor.ndim not in (2, 3, 4):
        raise ConfigError(f'{key}: the first module returns {tuple(tensor.shape)}, which is neither tokens nor a map')
    if tensor.ndim == 4 and not feature.has_channels_last:
        tensor = tensor.movedim(1, 3)
    rows = tensor.flatten(0, -2)
    for module in modules:
        rows = _apply(module, rows, key)
    tensor = rows.unflatten(0, tensor.shape[:-1])
    return replace(feature, tensor=tensor.movedim(3, 1) if tensor.ndim == 4 else tensor, is_dense=True)


def _apply(module: nn.Module, rows: torch.Tensor, key: str) -> torch.Tensor:
    """Apply a module to rows ``(M, C)``."""
    where = f'{key}: {type(module).__name__}, applied to {len(rows)} positions of {rows.shape[1]} channels,'
    try:
        output = module(rows)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # Modules raise many kinds of errors for an input that does not fit.
        raise ConfigError(f'{where} failed. {type(error).__name__}: {error}') from error
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != len(rows):
        found = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ConfigError(
            f'{where} returns {found}, not one vector for each. Name a module that maps each vector alone, such as the '
            'linear layer of a head'
        )
    return output
