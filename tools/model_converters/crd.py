"""Convert a network of the CRD benchmark (RepDistiller) to the names of mmpretrain and ``serkd_mm.backbones``.

    python tools/model_converters/crd.py resnet32x4_vanilla/ckpt_epoch_240.pth checkpoints/resnet32x4.pth

SRC is a checkpoint of RepDistiller (https://github.com/HobbitLong/RepDistiller, BSD-2), such as its published teachers.
ResNets of basic blocks, WRNs, VGGs with batch norm and ShuffleNetV2 are recognized by the names of their weights. DST is a
checkpoint of an mmpretrain classifier; the settings of its backbone are printed.
"""

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

import serkd_mm  # noqa: F401 (registers the backbones)
from serkd_mm.config_errors import ConfigError, first_names
from serkd_mm.distillers.weight_checks import read_state_dict
from serkd_mm.errors import one_line_errors
from serkd_mm.fileio.safe_loading import read_checkpoint

State = Mapping[str, torch.Tensor]
Patterns = list[tuple[str, str | Callable[[re.Match], str]]]  # Patterns and their replacements
Network = tuple[dict[str, Any], Patterns]  # The config of a backbone, and the patterns for the names of its weights.


def main() -> None:
    """Read, convert and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='SRC', type=Path, help='a checkpoint of RepDistiller')
    parser.add_argument('target', metavar='DST', type=Path, help='a .pth file')
    args = parser.parse_args()
    where = str(args.source)
    backbone, state_dict = convert(read_state_dict(read_checkpoint(args.source, where), where), where)
    args.target.parent.mkdir(parents=True, exist_ok=True)
    torch.save({'state_dict': state_dict}, args.target)
    print(f'Wrote {args.target}: backbone={_settings(backbone)}')


def convert(weights: State, where: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Rename the weights of a network.

    Args:
        weights: Weights by RepDistiller's names.
        where: The file, for messages.

    Returns:
        The config of the backbone, and the weights of a classifier with it.

    Raises:
        ConfigError: The network is not known, or names or shapes of the weights are not exactly those of the network.
    """
    read = next((read for name, read in NETWORKS.items() if name in weights), None)
    if read is None:
        raise ConfigError(f'{where} has no ResNet, WRN, VGG or ShuffleNetV2 of RepDistiller, but {first_names(weights)}')
    try:
        backbone, patterns = read(weights)
    except (KeyError, TypeError) as error:  # A weight is missing, or is a number.
        raise ConfigError(f'{where} is not a network of RepDistiller: {error}') from None
    renamed = {_rename(name, patterns): value for name, value in weights.items()}
    expected = _weights_of(backbone, renamed, where)
    wrong = [name for name in {**expected, **renamed} if _shape(renamed, name) != _shape(expected, name)]
    if wrong:
        raise ConfigError(
            f'{where} does not match {_settings(backbone)}: {first_names(wrong)} differ. {wrong[0]} has the shape '
            f'{_shape(renamed, wrong[0])} in the file and {_shape(expected, wrong[0])} in the network'
        )
    return backbone, renamed


def read_resnet(weights: State) -> Network:
    """A ResNet of basic blocks."""
    depth = 6 * _count(weights, r'layer1\.\d+\.conv1\.weight') + 2
    widths = {'stem_channels': len(weights['conv1.weight']), 'base_channels': len(weights['layer1.0.conv1.weight'])}
    return {'type': 'CRDResNet', 'depth': depth, **widths}, [(r'^fc\.', 'head.fc.'), ('^', 'backbone.')]


def read_wide_resnet(weights: State) -> Network:
    """A WRN."""
    depth = 6 * _count(weights, r'block1\.layer\.\d+\.conv1\.weight') + 4
    widen_factor = len(weights['block1.layer.0.conv1.weight']) // 16
    return {'type': 'CRDWideResNet', 'depth': depth, 'widen_factor': widen_factor}, [
        (r'^block(\d)\.layer\.(\d+)\.bn', r'backbone.layer\1.\2.norm'),
        (r'^block(\d)\.layer\.(\d+)\.convShortcut', r'backbone.layer\1.\2.shortcut'),
        (r'^block(\d)\.layer', r'backbone.layer\1'),
        (r'^bn1', 'backbone.norm'),
        (r'^fc\.', 'head.fc.'),
        ('^', 'backbone.'),
    ]


def read_vgg(weights: State) -> Network:
    """A VGG with batch norm; its depth counts the three linear layers of the original."""
    lengths = [_count(weights, rf'block{stage}\.\d+\.running_mean') for stage in range(5)]
    starts = [sum(lengths[:stage]) + stage for stage in range(5)]  # A pooling layer follows each stage.

    def features(match: re.Match) -> str:
        layer, part = divmod(int(match[2]), 3)  # Convolution, norm and ReLU are three modules.
        return f'backbone.features.{starts[int(match[1])] + layer}.{("conv", "bn", "relu")[part]}'

    return {'type': 'CRDVGG', 'depth': sum(lengths) + 3}, [
        (r'^block([0-4])\.(\d+)', features),
        (r'^classifier\.', 'head.fc.'),
    ]


def read_shufflenet_v2(_weights: State) -> Network:
    """A ShuffleNetV2."""

    def branches(match: re.Match) -> str:
        stage, block, part, number = int(match[1]) - 1, match[2], match[3], int(match[4]) - 1
        # The first block of a stage has two convolutions in its first branch.
        branch, place = (1, number) if block == '0' and number < 2 else (2, number - 2 if block == '0' else number)
        return f'backbone.layers.{stage}.{block}.branch{branch}.{place}.{part}'

    return {'type': 'CRDShuffleNetV2'}, [
        (r'^layer(\d)\.(\d+)\.(conv|bn)(\d)', branches),
        (r'^(conv|bn)1', r'backbone.conv1.\1'),
        (r'^(conv|bn)2', r'backbone.layers.3.\1'),
        (r'^linear\.', 'head.fc.'),
    ]


# By a weight that only the first network below with it has.
NETWORKS = {
    'block1.layer.0.conv1.weight': read_wide_resnet,
    'block1.1.running_mean': read_vgg,
    'layer1.0.conv5.weight': read_shufflenet_v2,
    'layer1.0.conv1.weight': read_resnet,
}


def _rename(name: str, patterns: Patterns) -> str:
    """Replace the first pattern that matches."""
    return next((re.sub(pattern, new, name, count=1) for pattern, new in patterns if re.search(pattern, name)), name)


def _weights_of(backbone: dict[str, Any], renamed: State, where: str) -> State:
    """Return the weights of a classifier with a backbone, of random values."""
    head = renamed.get('head.fc.weight')
    if head is None or head.ndim != 2:
        raise ConfigError(f'{where} has no linear classifier of a ResNet of basic blocks, WRN, VGG or ShuffleNetV2')
    init_default_scope('mmpretrain')
    neck = {'type': 'GlobalAveragePooling'}
    try:
        norms = [value for name, value in MODELS.build(backbone).state_dict().items() if name.endswith('running_mean')]
    except (KeyError, ValueError) as error:  # A depth that the backbone does not have.
        raise ConfigError(f'{where} is not a network of RepDistiller: {error}') from None
    head = {'type': 'LinearClsHead', 'num_classes': head.shape[0], 'in_channels': len(norms[-1])}
    return MODELS.build({'type': 'ImageClassifier', 'backbone': backbone, 'neck': neck, 'head': head}).state_dict()


def _settings(backbone: dict[str, Any]) -> str:
    """A config as in a file."""
    return f'dict({", ".join(f"{key}={value!r}" for key, value in backbone.items())})'


def _shape(weights: State, name: str) -> tuple[int, ...] | None:
    """The shape of a weight; None without it."""
    return tuple(weights[name].shape) if name in weights else None


def _count(weights: State, pattern: str) -> int:
    """Number of names that match a pattern."""
    return sum(re.fullmatch(pattern, name) is not None for name in weights)


if __name__ == '__main__':
    with one_line_errors():
        main()
