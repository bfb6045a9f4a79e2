"""One small step while the model is built, so that mistakes show then and not on the cluster."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.logging import print_log
from mmpretrain.structures import DataSample
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from .config_errors import ConfigError

_NUM_IMAGES = 2


def default_input_size(student: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width that the student's backbone says it is for; 3 x 224 x 224 where it says nothing."""
    image_size = getattr(getattr(student, 'backbone', None), 'img_size', 224)
    height, width = image_size if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    return 3, height, width


def dry_run(distiller: nn.Module, input_size: tuple[int, int, int]) -> None:
    """Run every tap, view and loss once on generated images, forward and backward.

    Makes what depends on shapes (projectors), proves that the parts fit, and tells which of the student's parameters no
    loss reaches. Changes no weight and no running statistic.

    Args:
        distiller: The model, complete but for its teacher's weights.
        input_size: Channels, height and width of the images.

    Raises:
        ConfigError: A part does not fit another, or a prediction head learns from no loss.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(_NUM_IMAGES, *input_size, generator=generator)
    try:
        with torch.enable_grad(), _as_in_training(distiller):
            losses = distiller.distillation_step(images, _labels(distiller.student))
            distiller.parse_losses(losses)[0].backward()
    except ConfigError:
        raise
    except Exception as error:  # Models say in their own ways that an input does not suit them.
        raise ConfigError(
            f'model: a step on generated images of {tuple(images.shape)} failed; if that is not a size of yours, set '
            f'model.input_size to (channels, height, width). {type(error).__name__}: {error}'
        ) from error
    _check_reached(distiller.student)
    for view in distiller.distill.views.values():
        view.teacher.requires_grad_(False)  # What its tokenizer has just made is not trained.
    distiller.zero_grad(set_to_none=True)


@contextmanager
def _as_in_training(distiller: nn.Module) -> Iterator[None]:
    """The student as it trains, but for what counts images: statistics of its norms, and memories of losses."""
    distiller.eval()
    distiller.student.train()
    for module in distiller.student.modules():
        if isinstance(module, _NormBase):
            module.eval()
    try:
        yield
    finally:
        distiller.train()


def _labels(student: nn.Module) -> list[DataSample]:
    """Class 0 for every image, as a label and, where the student's preprocessor makes them, as soft targets."""
    samples = [DataSample().set_gt_label(0) for _ in range(_NUM_IMAGES)]
    preprocessor = student.data_preprocessor
    if getattr(preprocessor, 'to_onehot', False):
        num_classes = preprocessor.num_classes or student.head.num_classes
        for sample in samples:
            sample.set_gt_score(torch.eye(num_classes)[0])
    return samples


def _check_reached(student: nn.Module) -> None:
    """Tell of parameters without a gradient: they would stay as they are, and stop distributed training."""
    unreached = [name for name, weight in student.named_parameters() if weight.requires_grad and weight.grad is None]
    heads = [name for name in unreached if name.startswith('head.')]
    if heads:
        raise ConfigError(
            f"model.losses: nothing trains the student's {', '.join(heads)}, which takes part in every prediction. Put a "
            'loss on it, or set model.student.model.head.distilled_training=False to train both heads on the labels'
        )
    if unreached:
        print_log(
            f'No loss reaches these parameters of the student: {", ".join(unreached)}. They will not be trained, and '
            'distributed training needs find_unused_parameters=True for them.',
            logger='current',
            level=logging.WARNING,
        )
