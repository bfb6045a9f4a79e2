"""Training without labels: ``losses=dict(loss_cls=None)``."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import MODELS
from torch import nn

from ..config_errors import ConfigError
from ..config_files import type_name
from ..model_sources import ModelSource
from .default_taps import default_taps
from .model_parts import head_modules, num_classes_of
from .taps import Taps
from .task_loss import TASK_LOSS

_TAPS = 'model.student.taps'


def is_label_free(losses: Any) -> bool:
    """Return whether a config's ``model.losses`` removes the student's task loss, the only one that reads labels."""
    return isinstance(losses, Mapping) and TASK_LOSS in losses and losses[TASK_LOSS] is None


@MODELS.register_module()
class LabelFreePreprocessor(ClsDataPreprocessor):
    """mmpretrain's ``ClsDataPreprocessor``, which also mixes images that have no labels.

    The parent class mixes a batch only if there are labels to mix, and otherwise leaves it as it is without a message. This
    class mixes the images alone, drawing the same random numbers, and leaves labels as they are. A ``RelationDistiller``
    whose ``losses`` have ``loss_cls=None`` uses it in place of a ``ClsDataPreprocessor``.

    Args:
        settings: Settings of ``ClsDataPreprocessor``. ``to_onehot`` is ignored.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.to_onehot = False  # Batch augmentations turn it on.

    def forward(self, data: dict, training: bool = False) -> dict:
        """Preprocess a batch, and mix its images.

        Args:
            data: ``inputs`` and ``data_samples``, as the dataloader returns them.
            training: Whether to mix. Default: False.
        """
        batch = super().forward(data, training=False)  # Only the mixing differs in training.
        if training and self.batch_augments is not None:
            no_labels = batch['inputs'].new_ones(len(batch['inputs']), 1)
            batch['inputs'], _ = self.batch_augments(batch['inputs'], no_labels)
        return batch


def label_free_preprocessor(source: ModelSource, config: Any) -> Any:
    """Return the config of a student's preprocessor with :class:`LabelFreePreprocessor` in place of ``ClsDataPreprocessor``.

    Args:
        source: The student. A preprocessor in its config is replaced there.
        config: The preprocessor of the training's config; None if it has none.
    """
    if source.config.get('data_preprocessor') is not None:
        source.config['data_preprocessor'] = _mixing_alone(source.config['data_preprocessor'])
        return config
    return _mixing_alone(source.data_preprocessor if config is None else config)


def _mixing_alone(config: Any) -> Any:
    if config is None or (isinstance(config, Mapping) and type_name(config) in (None, 'ClsDataPreprocessor')):
        return {**(config or {}), 'type': f'mmpretrain.{LabelFreePreprocessor.__name__}'}
    return config


def check_losses(model: nn.Module, losses: Mapping, readers_of_labels: Iterable[str], label_free: bool) -> None:
    """Check that there is a loss, a class head for the task loss, and labels for the losses that need them.

    Args:
        model: The student.
        losses: The distillation losses.
        readers_of_labels: Names of those that need labels.
        label_free: Whether the task loss is left out.

    Raises:
        ConfigError: Nothing would be trained, or features would be trained as if they were logits.
    """
    if label_free and not losses:
        raise ConfigError(f'model.losses: {TASK_LOSS} is None and there is no other loss, so nothing would be trained')
    if label_free and (names := ', '.join(readers_of_labels)):
        raise ConfigError(
            f'model.losses: {names} reads labels, but {TASK_LOSS}=None trains without any. Remove it, or keep the labels '
            f'with {TASK_LOSS}=dict(loss_weight=0.0)'
        )
    if not label_free and num_classes_of(model) == 0:
        raise ConfigError(
            f"model.student.model has no class head, which the student's task loss needs. Train without labels with "
            f'model.losses.{TASK_LOSS}=None, or build the student with as many classes as the data have'
        )


def check_mixing(preprocessor: nn.Module) -> None:
    """Check that a preprocessor that mixes the images of a batch does so without labels.

    Raises:
        ConfigError: It is of a class that may not.
    """
    if getattr(preprocessor, 'batch_augments', None) is not None and not isinstance(preprocessor, LabelFreePreprocessor):
        raise ConfigError(
            f'data_preprocessor.type={type(preprocessor).__name__!r} may mix only images with labels, and with '
            f'model.losses.{TASK_LOSS}=None there are none. Use {LabelFreePreprocessor.__name__!r}, or remove the batch '
            'augmentation with model.student.model.train_cfg=None'
        )


def freeze_unreached(student: nn.Module, images: torch.Tensor) -> tuple[list[str], list[str]]:
    """Freeze the parameters that no loss has reached in a backward pass, such as a class head, and log them.

    Args:
        student: The student, after the backward pass.
        images: Images ``(B, 3, H, W)`` to run it on.

    Returns:
        Names of the entries of the class head in the student's state dict, if nothing trains it, otherwise none; and names
        of other layers, apart from norms, that keep their initial weights.

    Raises:
        ConfigError: The losses leave out a part of the backbone that a tap at its last block would train, or one of two
            classifiers that both contribute to the predictions.
    """
    weights = dict(student.named_parameters())
    unreached = {name: weight for name, weight in weights.items() if weight.requires_grad and weight.grad is None}
    heads = head_modules(student)
    in_head = {weight for head in heads for weight in head.parameters()}
    trained = [weight for weight in in_head if weight.grad is not None]
    untrained = [name for name, weight in unreached.items() if weight in in_head]
    if trained and untrained:
        raise ConfigError(
            f"model.losses: no loss trains the student's {', '.join(untrained)}, which contributes to every prediction, and "
            f"{TASK_LOSS} is None. Put the logit loss on the whole head: {_TAPS}.logits='head'"
        )
    others = {name: weight for name, weight in unreached.items() if weight not in in_head}
    _check_last_block(student, images, others)
    for weight in unreached.values():
        weight.requires_grad_(False)
    if unreached:
        print_log(
            f'No loss reads these parts of the student, so they are not trained and are frozen: {_summary(unreached)}',
            logger='current',
        )
    layers = _owners(name for name, weight in others.items() if weight.ndim > 1)
    if layers:
        print_log(
            f'{", ".join(layers)} lies between the last block of the student and its class head, and keeps its initial '
            'weights. Read the features of the last block.',
            logger='current',
            level=logging.WARNING,
        )
    return (_entries_of(student, heads) if heads and not trained else []), layers


def _check_last_block(student: nn.Module, images: torch.Tensor, unreached: dict[str, nn.Parameter]) -> None:
    """Raise if a tap at the last block of the backbone would train any of these parameters."""
    if not unreached:
        return
    student.eval()  # Also norms, whose running statistics stay as they are.
    path = default_taps(student, {'patches'}, tuple(images.shape[1:]), _TAPS, last_block=True)['patches']
    with torch.enable_grad(), Taps(student, {'block': path}, {'block'}, _TAPS).record(tuple(images.shape[2:])) as features:
        student(images, mode='tensor')
    output = features['block'].tensor.sum()
    found = torch.autograd.grad(output, list(unreached.values()), allow_unused=True)
    left_out = {
        name: weight for (name, weight), gradient in zip(unreached.items(), found, strict=True) if gradient is not None
    }
    if left_out:
        raise ConfigError(
            f'model.losses: without labels ({TASK_LOSS}=None), no loss trains {_summary(left_out)}, which would '
            f'stay as it is. Put a loss on the last block of the student, {_TAPS}: {path!r}'
        )


def _entries_of(model: nn.Module, modules: list[nn.Module]) -> list[str]:
    """Names in the state dict of the model of all that belongs to the modules."""
    tensors = {id(value) for module in modules for value in module.state_dict(keep_vars=True).values()}
    return [name for name, value in model.state_dict(keep_vars=True).items() if id(value) in tensors]


def _owners(names: Iterable[str]) -> list[str]:
    """The modules that hold the weights of these names, each once."""
    return list(dict.fromkeys(name.rpartition('.')[0] or name for name in names))


def _summary(weights: dict[str, nn.Parameter]) -> str:
    """The modules that hold weights, up to four, and the number of parameters."""
    owners = _owners(weights)
    listed = ', '.join(owners[:4]) + (f' and {len(owners) - 4} more modules' if len(owners) > 4 else '')
    return f'{listed} ({sum(weight.numel() for weight in weights.values()):,} parameters)'
