"""One training step on generated images while the model is built, so that errors show before training."""

import logging
from traceback import walk_tb
from typing import Any

import torch
from mmengine.logging import print_log
from mmpretrain.structures import DataSample
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ..config_errors import ConfigError
from .cached_teacher import CachedTeacher
from .label_free import freeze_unreached
from .model_parts import backbone_of, head_modules, num_classes_of

_NUM_IMAGES = 2


def check_input_size(size: Any) -> tuple[int, int, int] | None:
    """Return the setting ``model.input_size`` as a tuple; None if it is not set.

    Raises:
        ConfigError: It is not three positive integers.
    """
    if size is None:
        return None
    sides = tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(sides) != 3 or any(not isinstance(side, int) or isinstance(side, bool) or side < 1 for side in sides):
        raise ConfigError(f'model.input_size must be (channels, height, width), positive integers, but is {size!r}')
    return sides


def default_input_size(student: nn.Module) -> tuple[int, int, int]:
    """Return channels, height and width for which the student's backbone was configured; 3 x 224 x 224 if unknown."""
    backbone = backbone_of(student)
    owners = backbone, getattr(backbone, 'patch_embed', None)  # A net of timm has its size there.
    sizes = [getattr(owner, 'img_size', None) for owner in owners]
    sizes.append(getattr(getattr(backbone, 'config', None), 'image_size', None))  # One of Hugging Face.
    image_size = next((size for size in sizes if size is not None), 224)
    height, width = image_size if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    return 3, height, width


def check_float32(student: nn.Module) -> None:
    """Check that the student's weights are in float32 or better.

    Raises:
        ConfigError: A weight is in half precision, in which small updates are rounded away.
    """
    halves = [name for name, weight in student.named_parameters() if weight.dtype in (torch.float16, torch.bfloat16)]
    if halves:
        raise ConfigError(
            f'model.student.model: {len(halves)} of the weights are in half precision, for example {halves[0]}. Build it in '
            'float32 (see torch.set_default_dtype), and train in mixed precision with --amp'
        )


def dry_run(distiller: nn.Module, input_size: tuple[int, int, int]) -> None:
    """Run every tap, view and loss once on generated images, forward and backward.

    This builds the layers whose sizes depend on the input, checks that the parts fit, and reports the student's parameters
    that no loss reaches. It changes no weight and no running statistic.

    Args:
        distiller: The model; its teacher's weights need not be loaded.
        input_size: Channels, height and width of the images.

    Raises:
        ConfigError: A part does not fit another, or no loss reaches a prediction head.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(_NUM_IMAGES, *input_size, generator=generator)
    _set_modes(distiller)
    try:
        with torch.enable_grad():
            losses = distiller.distillation_step(images, _samples(distiller))
            distiller.parse_losses(losses)[0].backward()
    except ConfigError:
        raise
    except Exception as error:  # Models raise many kinds of errors for an input that does not fit.
        raise ConfigError(
            f'{_part_of(error, distiller)}: a step on generated images of {tuple(images.shape)} failed; if your images have '
            f'another size, set model.input_size to (channels, height, width). {type(error).__name__}: {error}'
        ) from error
    if distiller.label_free:
        distiller.untrained_head, distiller.untrained_layers = freeze_unreached(distiller.student, images)
    else:
        _check_reached(distiller.student)
        _check_weightless_head(distiller)
    distiller.distill.check_shared_parts()
    distiller.zero_grad(set_to_none=True)
    distiller.train()


def _part_of(error: Exception, distiller: nn.Module) -> str:
    """Config key of the part in which an error was raised."""
    owners = [frame.f_locals.get('self') for frame, _ in walk_tb(error.__traceback__)]
    parts = {teacher.key: teacher for teacher in distiller.teachers.values()}
    for name, by_tap in distiller.distill.losses.items():
        parts |= {f'model.losses.{name} ({type(loss).__name__})': loss for loss in by_tap.values()}
    return next((key for key, part in parts.items() if any(owner is part for owner in owners)), 'model')


def _set_modes(distiller: nn.Module) -> None:
    """Set training mode, except where it would update running statistics of norms or queues of losses."""
    distiller.eval()
    distiller.student.train()
    for module in distiller.student.modules():
        if isinstance(module, _NormBase):
            module.eval()


def _samples(distiller: nn.Module) -> list[DataSample]:
    """Samples of class 0, also as soft targets if the student's preprocessor makes them, and with records of a cache."""
    samples = [DataSample() for _ in range(_NUM_IMAGES)]
    preprocessor = distiller.student.data_preprocessor
    if not distiller.label_free:
        for sample in samples:
            sample.set_gt_label(0)
    if not distiller.label_free and getattr(preprocessor, 'to_onehot', False):
        num_classes = preprocessor.num_classes or num_classes_of(distiller.student)
        for sample in samples:
            sample.set_gt_score(torch.eye(num_classes)[0])
    if isinstance(distiller.teacher, CachedTeacher):
        distiller.teacher.add_examples(samples)
    return samples


def _check_reached(student: nn.Module) -> None:
    """Report parameters without a gradient: they would not be trained, and distributed training would stop."""
    unreached = [name for name, weight in student.named_parameters() if weight.requires_grad and weight.grad is None]
    in_head = {weight for head in head_modules(student) for weight in head.parameters()}
    heads = [name for name, weight in student.named_parameters() if name in unreached and weight in in_head]
    if heads:
        raise ConfigError(
            f"model.losses: no loss trains the student's {', '.join(heads)}, which contributes to every prediction. Put a "
            'loss on it, or set model.student.model.head.distilled_training=False to train both heads on the labels'
        )
    if unreached:
        print_log(
            f'No loss reaches these parameters of the student: {", ".join(unreached)}. They will not be trained, and '
            'distributed training needs find_unused_parameters=True for them.',
            logger='current',
            level=logging.WARNING,
        )


def _check_weightless_head(distiller: nn.Module) -> None:
    """Report what only the task loss reaches of the class head, if that loss always has weight 0.

    Raises:
        ConfigError: It is one of two classifiers that both contribute to the predictions.
    """
    if distiller.task_loss.loss_weight != 0 or distiller.scheduled_settings():
        return
    in_head = {weight for head in head_modules(distiller.student) for weight in head.parameters()}
    gradients = {name: weight.grad for name, weight in distiller.student.named_parameters() if weight in in_head}
    names = [name for name, gradient in gradients.items() if gradient is not None and not gradient.any()]
    if not names:
        return
    problem = f"model.losses: loss_cls.loss_weight=0, and no other loss trains the student's {', '.join(names)}"
    if len(names) < sum(gradient is not None for gradient in gradients.values()):
        raise ConfigError(
            f'{problem}, which contributes to every prediction. Put a loss on its logits, by a tap such as '
            "'head.layers.head', or raise the weight"
        )
    print_log(f'{problem}: predictions are not trained.', logger='current', level=logging.WARNING)
