"""Taps of a model whose config has none, found in one forward pass."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn

from ..config_errors import ConfigError
from ..heads.distilled_head import DistilledHead
from ..tokenizers import Feature, GridTokenizer
from .model_parts import backbone_of, backbone_path
from .taps import single_tensor

DEFAULT_TAPS = ('patches', 'logits')

# Pixels between positions, at most: as in ViT-B/16, and as the 14x14 tokens of 224x224 pixels that SeRKD uses for CNNs.
_STRIDE = 16
# More leading tokens than this cannot be class or distillation tokens.
_MAX_EXTRA_TOKENS = 8
_NUM_IMAGES = 2
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
# Backbones whose last block with enough positions is not the right one: it is class attention or one of several branches, or
# the stage ends with the downsampling of the next.
_PATCHES = {
    'Conformer': 'backbone.conv_trans_12.trans_block',
    'HRNet': 'backbone.stage4[-1].branches[2]',
    'MixMIMTransformer': 'backbone.layers[2].blocks[-1]',
    'XCiT': 'backbone.xca_layers[-1]',
}


def default_taps(
    model: nn.Module, used: set[str], input_size: tuple[int, int, int], key: str, last_block: bool = False
) -> dict[str, str]:
    """Find the taps ``patches`` and ``logits`` of any model.

    ``patches`` is the output of the last block of the backbone whose tokens or positions are about 16 pixels apart or less,
    or, if there is none, of the last block with the largest number of them; norms after the blocks do not count. In a vision
    transformer it is the last block (SeRKD, section V-A), in a ResNet the third stage (section IV-A.2). ``logits`` is the
    head; in a head with several classifiers it is the last one, which in a distilled head learns from the teacher.

    Args:
        model: A classifier with a backbone and a head.
        used: The taps that a loss reads.
        input_size: Channels, height and width of the images to run the model on.
        key: Config key of the taps, for messages.
        last_block: Whether ``patches`` is the last block with a grid of features, however coarse; for a student whose losses
            would leave the later blocks untrained. Default: False.

    Returns:
        The module path of each used tap.

    Raises:
        ConfigError: The model cannot be run on such images, or has no grid of features or no logits.
    """
    outputs = _outputs(model, input_size, key)
    find = {
        'patches': lambda: _patches(model, outputs, input_size[1:], key, last_block),
        'logits': lambda: _logits(model, outputs, key),
    }
    taps = {name: find[name]() for name in DEFAULT_TAPS if name in used}
    print_log(f'{key}: ' + ', '.join(f'{name}={path!r}' for name, path in taps.items()), logger='current')
    return taps


def _outputs(model: nn.Module, input_size: tuple[int, int, int], key: str) -> dict[nn.Module, torch.Tensor | None]:
    """The single tensor that each module returns, in the order in which they finish; None for a module that runs twice."""
    outputs: dict[nn.Module, torch.Tensor | None] = {}

    def record(module: nn.Module, _inputs: tuple, output: Any) -> None:
        outputs[module] = None if module in outputs else single_tensor(output)

    training = model.training
    try:
        with torch.no_grad(), ExitStack() as hooks:
            for module in model.modules():
                hooks.enter_context(module.register_forward_hook(record))
            model.eval()(torch.zeros(_NUM_IMAGES, *input_size), mode='tensor')
    except Exception as error:  # Models raise many kinds of errors for an input that does not fit.
        raise ConfigError(
            f'{key} is left out, and the model cannot be run on images of {input_size} to find it; set another size with '
            f'input_size. {type(error).__name__}: {error}'
        ) from error
    finally:
        model.train(training)
    return outputs


def _patches(model: nn.Module, outputs: dict, image_size: tuple[int, int], key: str, last_block: bool = False) -> str:
    """The last block with enough positions, or the last one of all."""
    family = type(getattr(model, 'backbone', None)).__name__
    if family in _PATCHES:
        return _PATCHES[family]
    start = (backbone_path(model), backbone_of(model)) if backbone_of(model) is not None else ('', model)
    blocks = {module: path for path, module in _blocks(*start, outputs, image_size) if not isinstance(module, _NORMS)}
    positions = {blocks[module]: _num_positions(outputs[module], image_size) for module in outputs if module in blocks}
    if not positions:
        raise ConfigError(f'{key} is left out, and no block of {family} returns a grid of features for each image')
    if last_block:
        return list(positions)[-1]
    wanted = image_size[0] // _STRIDE * (image_size[1] // _STRIDE)
    # Half is enough: convolutions without padding leave less than the stride says, and the next stage a quarter.
    enough = min(wanted / 2, max(positions.values()))
    return [path for path, number in positions.items() if number >= enough][-1]


def _blocks(path: str, module: nn.Module, outputs: dict, image_size: tuple[int, int]) -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules inside a module that return a grid of features, with their paths."""
    listed = isinstance(module, (nn.ModuleList, nn.Sequential))
    for index, (name, child) in enumerate(module.named_children()):
        inside = f'{path}[{index}]' if listed else f'{path}.{name}'.lstrip('.')
        if _num_positions(outputs.get(child), image_size) > 1:
            yield inside, child
        else:
            yield from _blocks(inside, child, outputs, image_size)


def _num_positions(output: torch.Tensor | None, image_size: tuple[int, int]) -> int:
    """Number of tokens or positions of an image; 0 if the output is not a grid of features."""
    if output is None or output.ndim not in (3, 4) or output.shape[0] != _NUM_IMAGES:
        return 0
    grid = GridTokenizer()(Feature(output, image_size))
    num_extra_tokens = output[0].numel() // grid.shape[1] - grid[0, 0].numel()
    return grid[0, 0].numel() if grid.shape[1] > 1 and num_extra_tokens <= _MAX_EXTRA_TOKENS else 0


def _logits(model: nn.Module, outputs: dict, key: str) -> str:
    """The head, or the last of its classifiers."""
    head = getattr(model, 'head', None)
    if head in outputs and outputs[head] is not None and not isinstance(head, DistilledHead):
        return 'head'
    num_classes = getattr(head, 'num_classes', None)
    paths = {module: f'head.{path}' for path, module in (head.named_modules() if head is not None else ()) if path}
    found = [
        paths[module]
        for module, output in outputs.items()
        if module in paths and output is not None and output.shape[1:] == (num_classes,)
    ]
    if not found:
        raise ConfigError(f"{key} is left out, and no module of the model's head returns the logits of an image")
    return found[-1]
