"""What a checkpoint must hold to be the weights of a trained model."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..config_errors import ConfigError, first_names

# Prefixes of entries in some checkpoints that are not weights of the model.
_NOT_WEIGHTS = ('data_preprocessor.', 'distill.')
# Where training scripts keep weights in their checkpoints: mmengine and others, DeiT's, timm's.
_SETS = ('state_dict', 'model', 'state_dict_ema', 'model_ema')
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def read_state_dict(checkpoint: Any, where: str) -> dict[str, torch.Tensor]:
    """Find the weights in the content of a checkpoint.

    Args:
        checkpoint: A plain state dict, or a dict with one as ``state_dict``, ``model``, ``state_dict_ema``
            or ``model_ema``.
        where: Start of the error messages.

    Returns:
        The weights, named as in the plain model.

    Raises:
        ConfigError: There are none, there are several sets of them, or a weight is there with and without the prefix
            ``module.``.
    """
    sets = [name for name in _SETS if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get(name), Mapping)]
    if len(sets) > 1:
        raise ConfigError(
            f'{where} holds several sets of weights: {", ".join(sets)}. Save the one that you mean to a file of its own, '
            f'for example torch.save(torch.load(FILE)[{sets[-1]!r}], NEW_FILE)'
        )
    if sets:
        checkpoint = checkpoint[sets[0]]
    if not isinstance(checkpoint, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in checkpoint.items()
    ):
        raise ConfigError(f'{where} holds no state_dict')
    doubled = [name for name in checkpoint if name.startswith('module.') and name.removeprefix('module.') in checkpoint]
    if doubled:
        raise ConfigError(
            f'{where} holds weights twice, with and without the prefix "module.": {first_names(doubled)}. Remove one of the '
            'two'
        )
    names = ((name.removeprefix('module.'), value) for name, value in checkpoint.items())
    return {name: value for name, value in names if not name.startswith(_NOT_WEIGHTS)}


def check_weights(state_dict: Mapping[str, torch.Tensor], model: nn.Module, where: str) -> None:
    """Check types and values of the weights; names and shapes are checked when they are loaded.

    Floating-point weights of any precision fit floating-point parameters. Nothing else is converted: ``load_state_dict``
    would cast quantized and complex weights silently.

    Args:
        state_dict: The weights.
        model: The model that they belong to.
        where: Start of the error message.

    Raises:
        ConfigError: Weights are of a type that the model does not have there, are not finite, or are negative variances.
    """
    own = model.state_dict()
    wrong = [f'{name} ({_type(value)})' for name, value in state_dict.items() if not _fits(value, own.get(name))]
    if wrong:
        raise ConfigError(
            f'{where} holds tensors that are not plain weights of this model: {first_names(wrong)}. Quantized, complex and '
            'sparse weights are not converted; save the weights as float32'
        )
    broken = [name for name, value in state_dict.items() if not _is_finite(value, own.get(name))]
    if broken:
        raise ConfigError(
            f'{where} holds weights that are NaN or infinite: {first_names(broken)}. Use an earlier checkpoint'
        )
    negative = [name for name, value in state_dict.items() if name.endswith('running_var') and (value < 0).any()]
    if negative:
        raise ConfigError(f'{where} holds negative variances: {first_names(negative)}. Use an earlier checkpoint')


def _fits(value: torch.Tensor, own: torch.Tensor | None) -> bool:
    """Whether a tensor can be loaded without a change of its meaning; ``own`` is None for a name that the model lacks."""
    if value.layout is not torch.strided or value.is_meta or value.is_quantized:
        return False
    return (
        own is None
        or value.dtype == own.dtype
        or any(value.dtype in kind and own.dtype in kind for kind in (_FLOATS, _INTEGERS))
    )


def _is_finite(value: torch.Tensor, own: torch.Tensor | None) -> bool:
    """Whether all values are finite in the model's precision, apart from those that are infinite by design (masks)."""
    if not value.is_floating_point():
        return True
    finite = (value if own is None else value.to(own.dtype)).isfinite()
    if own is not None and own.shape == value.shape:
        finite |= ~own.isfinite().to(finite.device)
    return bool(finite.all())


def _type(value: torch.Tensor) -> str:
    """The type of a tensor, for a message."""
    layout = '' if value.layout is torch.strided else f', {value.layout}'.replace('torch.', '')
    return f'{value.dtype}{layout}{", without data" if value.is_meta else ""}'.replace('torch.', '')
