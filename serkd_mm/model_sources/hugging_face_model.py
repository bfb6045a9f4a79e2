"""Models of Hugging Face as classifiers of mmpretrain, with or without a class head."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

import torch
from mmpretrain.models import BaseClassifier
from mmpretrain.models.classifiers import HuggingFaceClassifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn

from .extras import import_optional
from .hugging_face_files import read_config

# Parameters that are tokens in front of the patch tokens, as many as they have rows.
_TOKENS = re.compile(r'(^|\.)(cls_token|class_token|class_embedding|distillation_token|register_tokens)$')
# Tokens of blocks and stages, which are numbered, and of heads stand in front of the tokens there only.
_INNER = re.compile(r'(^|\.)(\d+|head)\.')
# Models that hide random patches from themselves whenever they run.
_MASKING = ('vit_mae',)


@MODELS.register_module()
class HuggingFaceModel(HuggingFaceClassifier):
    """A vision model of Hugging Face, built from its config, with the class head if it has one.

    mmpretrain's ``HuggingFaceClassifier`` adds a class head to any model. This one is built as it was published: without a
    head if its config names no classifier, and only the vision tower of a model that also reads text. Its checkpoints have
    the names that transformers gives to the weights.

    Args:
        model_name: Name of a repository of the hub, or a folder, with the model's ``config.json``.
        num_labels: Number of classes; builds a class head. Default: None, as in the model's config.
        loss: Config of the classification loss. Default: cross entropy.
        train_cfg: ``augments`` of the training, as in mmpretrain. Default: None.
        with_cp: Use checkpointing to save memory in training. Default: False.
        data_preprocessor: Config of the data preprocessor. Default: None.
        init_cfg: As in mmengine. Default: None.

    Attributes:
        num_classes: Number of classes; 0 without a class head.
        num_extra_tokens: Number of class, distillation and register tokens in front of the patch tokens.
        logits: The logits pass through this module; they are its output.
    """

    def __init__(
        self,
        model_name: str,
        num_labels: int | None = None,
        loss: Mapping | None = None,
        train_cfg: Mapping | None = None,
        with_cp: bool = False,
        data_preprocessor: Mapping | None = None,
        init_cfg: Mapping | None = None,
    ) -> None:
        data_preprocessor = {'type': 'mmpretrain.ClsDataPreprocessor', **(data_preprocessor or {})}
        if train_cfg is not None and 'augments' in train_cfg:
            data_preprocessor['batch_augments'] = train_cfg
        # Not the constructor of mmpretrain's class, which builds another net.
        BaseClassifier.__init__(self, init_cfg=init_cfg, data_preprocessor=data_preprocessor)
        self.model = build_net(read_config(model_name, num_labels))
        self.logits = nn.Identity()
        self.loss_module = MODELS.build(loss or {'type': 'CrossEntropyLoss', 'loss_weight': 1.0})
        self.with_cp = with_cp
        if with_cp:
            self.model.gradient_checkpointing_enable()
        self.num_classes = self.model.config.num_labels if is_classifier(type(self.model)) else 0
        self.num_extra_tokens = _num_extra_tokens(self.model)
        self._interpolates = 'interpolate_pos_encoding' in inspect.signature(self.model.forward).parameters
        self._register_state_dict_hook(self._remove_state_dict_prefix)
        self._register_load_state_dict_pre_hook(self._add_state_dict_prefix)

    def forward(self, inputs: torch.Tensor, data_samples: list[DataSample] | None = None, mode: str = 'tensor') -> Any:
        """Run as a classifier of mmpretrain.

        Args:
            inputs: Preprocessed images ``(B, 3, H, W)``.
            data_samples: Their labels; needed for ``mode='loss'``. Default: None.
            mode: 'tensor', 'predict' or 'loss'. Default: 'tensor'.

        Returns:
            For 'tensor' the logits, or pooled features if there is no class head; otherwise as in mmpretrain.
        """
        if mode != 'tensor':
            return super().forward(inputs, data_samples, mode)
        if not self.num_classes:
            return self._pool(self._run(self.model, inputs))
        return self.logits(self._run(self.model, inputs).logits)

    def loss(self, inputs: torch.Tensor, data_samples: list[DataSample], **kwargs) -> dict[str, torch.Tensor]:
        """Compute the classification loss of preprocessed images ``(B, 3, H, W)``."""
        return self._get_loss(self(inputs), data_samples, **kwargs)

    def predict(self, inputs: torch.Tensor, data_samples: list[DataSample] | None = None) -> list[DataSample]:
        """Predict the classes of preprocessed images ``(B, 3, H, W)``."""
        return self._get_predictions(self(inputs), data_samples)

    def extract_feat(self, inputs: torch.Tensor) -> torch.Tensor:
        """Compute the pooled features of preprocessed images ``(B, 3, H, W)``, one vector each."""
        # The part without the head, as transformers names it; models with two towers have no other name for it.
        net = self.model
        if self.num_classes:
            net = getattr(net, 'vision_model', None) or net.base_model
        return self._pool(self._run(net, inputs))

    def _run(self, net: nn.Module, inputs: torch.Tensor) -> Any:
        """Run a net, which resizes its position embeddings if the images are not of its own size."""
        size = getattr(getattr(net.config, 'vision_config', net.config), 'image_size', None)
        size = (size, size) if isinstance(size, int) else size
        if self._interpolates and size is not None and tuple(size) != tuple(inputs.shape[-2:]):
            return net(inputs, interpolate_pos_encoding=True)
        return net(inputs)

    def _pool(self, output: Any) -> torch.Tensor:
        """One vector for each image: the net's own, or its class token, or the average of its features."""
        pooled = getattr(output, 'pooler_output', None)
        if pooled is not None:
            return pooled.flatten(1)
        features = output.last_hidden_state
        if features.ndim == 4:
            return features.mean(dim=(2, 3))
        return features[:, 0] if self.num_extra_tokens else features.mean(dim=1)


def is_classifier(net: type[nn.Module]) -> bool:
    """Return whether a class of transformers is that of image classifiers."""
    return 'ForImageClassification' in net.__name__


def build_net(config: Any) -> nn.Module:
    """Build a vision model of transformers with random weights in float32.

    Args:
        config: Its config. Of a model with a vision tower, only that is built, unless it has a class head.
    """
    has_head = any('ForImageClassification' in name for name in config.architectures or ())
    transformers = import_optional('transformers', config.model_type)
    auto = transformers.AutoModelForImageClassification if has_head else transformers.AutoModel
    nets = auto._model_mapping.get(type(config), None)
    if nets is None or config.model_type in _MASKING:
        raise ValueError(f'transformers has no model of type {config.model_type!r} that returns features of whole images')
    nets = nets if isinstance(nets, (tuple, list)) else (nets,)
    net = next((net for net in nets if net.__name__ in (config.architectures or ())), nets[0])
    return net._from_config(config, **net_settings(net))


def net_settings(net: type[nn.Module]) -> dict[str, Any]:
    """Return the settings to build or load a net with: no pooling layer that many checkpoints lack."""
    has_pooler = 'add_pooling_layer' in inspect.signature(net.__init__).parameters
    return {'dtype': torch.float32, **({'add_pooling_layer': False} if has_pooler else {})}


def _num_extra_tokens(net: nn.Module) -> int:
    """Number of tokens in front of the patch tokens; not of those that a later stage adds."""
    tokens = [value for name, value in net.named_parameters() if _TOKENS.search(name) and not _INNER.search(name)]
    return sum(value.shape[-2] if value.ndim > 1 else 1 for value in tokens)
