"""Where a model keeps its parts: classifiers of mmpretrain, and those that wrap a net of timm or Hugging Face."""

from typing import Any

import torch
from mmpretrain.models import StackedLinearClsHead
from torch import nn

# Classes of mmpretrain, by name: they need timm or transformers only when one is built.
_WRAPPERS = ('TimmClassifier', 'HuggingFaceClassifier')
# Nets of timm whose blocks see no class token: class attention after them adds it. Their num_prefix_tokens counts it.
_CLASS_ATTENTION = ('Cait', 'Xcit')


def is_wrapper(model: nn.Module) -> bool:
    """Return whether a classifier wraps a net of timm or Hugging Face, which it keeps as ``model``."""
    return any(base.__name__ in _WRAPPERS for base in type(model).__mro__)


def backbone_path(model: nn.Module) -> str:
    """Return the name of the submodule that computes the features: 'backbone', or 'model' for a wrapped net."""
    return 'model' if is_wrapper(model) else 'backbone'


def backbone_of(model: nn.Module) -> nn.Module | None:
    """Return the submodule that computes the features: a backbone, or a whole wrapped net; None if there is none."""
    return getattr(model, backbone_path(model), None)


def num_classes_of(model: nn.Module) -> int | None:
    """Return the number of classes that a model predicts: 0 without a class head, None if it is not known."""
    if not is_wrapper(model):
        head = getattr(model, 'head', None)
        return 0 if head is None else getattr(head, 'num_classes', None)
    if hasattr(model, 'num_classes'):  # Our wrapper of Hugging Face's models knows whether there is a head.
        return model.num_classes
    config = getattr(model.model, 'config', None)
    return getattr(model.model, 'num_classes', None) if config is None else getattr(config, 'num_labels', None)


def head_modules(model: nn.Module) -> list[nn.Module]:
    """Return the modules that turn pooled features into logits, outermost first; none for a model without a class head."""
    if not is_wrapper(model):
        return [head] if (head := getattr(model, 'head', None)) is not None else []
    if num_classes_of(model) == 0:
        return []
    if hasattr(model.model, 'get_classifier'):
        return [module for module in _as_tuple(model.model.get_classifier()) if isinstance(module, nn.Module)]
    return [module for name, module in model.model.named_children() if 'classifier' in name]


def num_extra_tokens_of(module: nn.Module) -> int | None:
    """Return how many class, distillation and register tokens stand before the patch tokens; None if it is not known."""
    if type(module).__name__ in _CLASS_ATTENTION:
        return 0
    for name in ('num_extra_tokens', 'num_prefix_tokens'):  # mmpretrain's name, and timm's.
        number = getattr(module, name, None)
        if isinstance(number, int):
            return number
    return None


@torch.no_grad()
def pooled_features(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Compute the features that a class head would read, before its hidden layers: without labels nothing trains them.

    Args:
        model: A classifier.
        images: Preprocessed images ``(B, 3, H, W)``.

    Returns:
        One vector for each image ``(B, C)``.
    """
    if is_wrapper(model):
        net = model.model
        if not hasattr(net, 'forward_head'):
            return _pooled(model.extract_feat(images))
        features = net.forward_features(images)
        has_hidden_layers = getattr(net, 'head_hidden_size', None) not in (None, net.num_features)  # As in MobileNetV4.
        return _pooled(features if has_hidden_layers else net.forward_head(features, pre_logits=True))
    features, head = model.extract_feat(images), getattr(model, 'head', None)
    has_hidden_layers = isinstance(head, StackedLinearClsHead)  # As in MobileNetV3.
    return _pooled(head.pre_logits(features) if hasattr(head, 'pre_logits') and not has_hidden_layers else features)


def _pooled(features: Any) -> torch.Tensor:
    """The last of several features, averaged over its positions."""
    while isinstance(features, (tuple, list)):
        features = features[-1]
    if features.ndim == 4:
        return features.mean(dim=(2, 3))
    return features.mean(dim=1) if features.ndim == 3 else features


def _as_tuple(value: Any) -> tuple:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
