"""Taps of a model whose config has none, found in one forward pass."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn

from ..config_errors import ConfigError
from ..heads.distilled_head import DistilledHead
from ..tokenizers import Feature, GridTokenizer
from .model_parts import backbone_of, backbone_path, is_wrapper, num_classes_of, num_extra_tokens_of
from .taps import single_tensor

DEFAULT_TAPS = ('patches', 'logits')

# Pixels between positions, at most: as in ViT-B/16, and as the 14x14 tokens of 224x224 pixels that SeRKD uses for CNNs.
_STRIDE = 16
# More leading tokens than this cannot be class or distillation tokens.
_MAX_EXTRA_TOKENS = 8
_NUM_IMAGES = 2
# A sequence of so many resolutions is no stage.
_MIN_STAGES = 3
# What may come after the last block and is none.
_NO_BLOCKS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.Identity, nn.modules.dropout._DropoutNd)
# Nets whose last block with enough positions is not the right one, by where the model keeps them: it is class attention, an
# auxiliary head or one of several branches, or the stage ends with the downsampling of the next.
_PATCHES = {
    'backbone': {
        'Conformer': 'conv_trans_12.trans_block',
        'HRNet': 'stage4[-1].branches[2]',
        'MixMIMTransformer': 'layers[2].blocks[-1]',
        'XCiT': 'xca_layers[-1]',
    },
    'model': {
        'CoaT': 'serial_blocks3[-1]',
        'CrossVit': 'blocks[-1].blocks[1]',
        'EfficientViM': 'stages[0].blocks[-1].ffn',
        'HighResolutionNet': 'incre_modules[2]',
        'TNT': 'norm',
        'VOLO': 'network[-1]',
        'Xcit': 'blocks[-1]',
    },
}
# Hiera's blocks hold the tokens in the order of its mask units, in which no window of neighbors is one.
_NO_GRID = ('Hiera', 'HieraModel', 'HieraForImageClassification')


def default_taps(
    model: nn.Module, used: Collection[str], input_size: tuple[int, int, int], key: str, last_block: bool = False
) -> dict[str, str]:
    """Find the taps ``patches`` and ``logits`` of any model of mmpretrain, timm or Hugging Face.

    ``patches`` is the output of the last block of the backbone whose tokens or positions are about 16 pixels apart or less,
    or, if there is none, of the last block with the largest number of them; norms after the blocks do not count. In a vision
    transformer it is the last block (SeRKD, section V-A), in a ResNet the third stage (section IV-A.2). ``logits`` is the
    output of a net of timm or Hugging Face, and otherwise the head; in a head with several classifiers it is the last one,
    which in a distilled head learns from the teacher.

    Args:
        model: A classifier.
        used: The taps that a loss reads; a dict also has the names of the losses, for messages.
        input_size: Channels, height and width of the images to run the model on.
        key: Config key of the taps, for messages.
        last_block: Whether ``patches`` is the last block at any resolution: a loss on it trains the whole backbone.
            Default: False.

    Returns:
        The module path of each used tap.

    Raises:
        ConfigError: The model cannot be run on such images, or has no grid of features or no logits.
    """
    if 'logits' in used:
        _check_class_head(model, used, key)
    outputs, modified = _outputs(model, input_size, key)
    find = {
        'patches': lambda: _patches(model, outputs, modified, input_size[1:], key, last_block),
        'logits': lambda: _logits(model, outputs, key),
    }
    taps = {name: find[name]() for name in DEFAULT_TAPS if name in used}
    print_log(f'{key}: ' + ', '.join(f'{name}={path!r}' for name, path in taps.items()), logger='current')
    return taps


def _check_class_head(model: nn.Module, used: Collection[str], key: str) -> None:
    """Report a model that has no logits, with the losses that read them."""
    if num_classes_of(model) != 0:
        return
    losses = used['logits'] if isinstance(used, Mapping) else ['loss_kd']
    raise ConfigError(
        f'{key.removesuffix(".taps")}.model has no class head, so there are no logits: set '
        f'{" and ".join(f"model.losses.{name}=None" for name in losses)}'
    )


def _outputs(
    model: nn.Module, input_size: tuple[int, int, int], key: str
) -> tuple[dict[nn.Module, torch.Tensor | None], set[nn.Module]]:
    """The single tensor that each module returns, in the order in which they finish; None for a module that runs twice.

    Also returns the modules whose output is modified in place later: they cannot be tapped.
    """
    outputs: dict[nn.Module, torch.Tensor | None] = {}
    versions: dict[nn.Module, int] = {}

    def record(module: nn.Module, _inputs: tuple, output: Any) -> None:
        tensor = outputs[module] = None if module in outputs else single_tensor(output)
        versions[module] = 0 if tensor is None else tensor._version

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
    modified = {module for module, tensor in outputs.items() if tensor is not None and tensor._version != versions[module]}
    return outputs, modified


def _patches(
    model: nn.Module, outputs: dict, modified: set[nn.Module], image_size: tuple[int, int], key: str, last_block: bool
) -> str:
    """The last block with enough positions, or the last one of all."""
    backbone = backbone_of(model)
    start = ('', model) if backbone is None else (backbone_path(model), backbone)
    family = type(backbone).__name__
    known = _PATCHES.get(start[0], {})
    if family in known and not last_block:
        return f'{start[0]}.{known[family]}'
    if family in _NO_GRID:
        raise ConfigError(
            f"{key} is left out, and {family}'s blocks do not hold the tokens in the order of the image: set each view to "
            'None, and distill its logits'
        )
    # Half is enough: convolutions without padding leave less than the stride says, and the next stage a quarter.
    enough = 0 if last_block else image_size[0] // _STRIDE * (image_size[1] // _STRIDE) / 2
    for into_vectors in (False, True):
        search = _BlockSearch(outputs, image_size, enough, into_vectors)
        blocks = {module: (path, number) for path, module, number in search.walk(*start)}
        found = [blocks[module] for module in outputs if module in blocks and module not in modified]
        most = max((number for _, number in found), default=0)
        if most > 1:
            return [path for path, number in found if number >= min(max(enough, 2), most)][-1]
    raise ConfigError(f'{key} is left out, and no block of {family} returns a grid of features for each image')


@dataclass(frozen=True)
class _BlockSearch:
    """Search for blocks among the modules of a net.

    Attributes:
        outputs: The single tensor that each module returned.
        image_size: Height and width of the images.
        enough: Number of positions that a block should have.
        into_vectors: Whether to search inside a module that returns one vector for each image. Mostly it reads the blocks,
            as class attention does.
    """

    outputs: Mapping[nn.Module, torch.Tensor | None]
    image_size: tuple[int, int]
    enough: float
    into_vectors: bool

    def walk(
        self, path: str, module: nn.Module, num_extra_tokens: int | None = None
    ) -> Iterator[tuple[str, nn.Module, int]]:
        """Yield path and number of positions of the outermost modules inside a module that return features of each image."""
        listed = isinstance(module, (nn.ModuleList, nn.Sequential))
        known = num_extra_tokens_of(module)
        num_extra_tokens = num_extra_tokens if known is None else known
        for index, (name, child) in enumerate(module.named_children()):
            inside = f'{path}[{index}]' if listed else f'{path}.{name}'.lstrip('.')
            number = _num_positions(self.outputs.get(child), self.image_size, num_extra_tokens)
            if number > 0 and _may_be_block(child):
                yield inside, child, number
            if number == 0 or self._holds_stages(child, number) or (number == 1 and self.into_vectors):
                yield from self.walk(inside, child, num_extra_tokens)

    def _holds_stages(self, module: nn.Module, number: int) -> bool:
        """Whether a module with too few positions is a sequence of stages; a stage alone halves the resolution once."""
        if number >= self.enough or not isinstance(module, nn.Sequential):
            return False
        return len({_num_positions(self.outputs.get(child), self.image_size, None) for child in module}) >= _MIN_STAGES


def _may_be_block(module: nn.Module) -> bool:
    """Whether a module is no norm, dropout or identity; a norm that is not one of torch's is known by its name."""
    named_norm = any(part in type(module).__name__ for part in ('Norm', 'Affine'))
    is_layer = next(module.children(), None) is None
    return not isinstance(module, _NO_BLOCKS) and not (named_norm and is_layer)


def _num_positions(output: torch.Tensor | None, image_size: tuple[int, int], num_extra_tokens: int | None) -> int:
    """Number of tokens or positions of an image, 1 for a single vector; 0 if the output is not features of each image."""
    if output is None or output.ndim not in (2, 3, 4) or output.shape[0] != _NUM_IMAGES:
        return 0
    if output.ndim == 2:
        return 1
    try:
        grid = GridTokenizer()(Feature(output, image_size, num_extra_tokens))
    except ValueError:  # Not every module of a transformer has its extra tokens.
        grid = GridTokenizer()(Feature(output, image_size))
    found = output[0].numel() // grid.shape[1] - grid[0, 0].numel()
    return grid[0, 0].numel() if grid.shape[1] > 1 and found <= max(_MAX_EXTRA_TOKENS, num_extra_tokens or 0) else 0


def _logits(model: nn.Module, outputs: dict, key: str) -> str:
    """The output of a wrapped net, the head, or the last classifier of either."""
    if isinstance(getattr(model, 'logits', None), nn.Module):
        return 'logits'
    path = backbone_path(model) if is_wrapper(model) else 'head'
    head = getattr(model, path, None)
    if head in outputs and outputs[head] is not None and not isinstance(head, DistilledHead):
        return path
    num_classes = num_classes_of(model)
    paths = {module: f'{path}.{name}' for name, module in (head.named_modules() if head is not None else ()) if name}
    found = [
        paths[module]
        for module, output in outputs.items()
        if module in paths and output is not None and output.shape[1:] == (num_classes,)
    ]
    if not found:
        raise ConfigError(f"{key} is left out, and no module of the model's head returns the logits of an image")
    return found[-1]
