"""From what a data pipeline gives to drawings."""

import numpy as np
import torch
from torch import nn

from ..distillers.config_errors import ConfigError, suggest
from ..distillers.input_statistics import InputStatistics
from ..mergers import SuperpixelMerger
from .superpixels import superpixels_of


def find_view(distiller: nn.Module, name: str | None = None) -> str:
    """The view to draw: the named one, or the first with superpixels, or the first.

    Args:
        distiller: A ``RelationDistiller`` that was built with its teacher.
        name: A view that a loss reads.

    Raises:
        ConfigError: There is no such view, or none at all.
    """
    views = getattr(getattr(distiller, 'distill', None), 'views', {})
    if not views:
        raise ConfigError('model.views: superpixels are drawn of a view that a loss reads, and there is none')
    if name is not None and name not in views:
        raise ConfigError(f'model.views has no {name!r} that a loss reads. {suggest(name, views)}')
    with_superpixels = [key for key, view in views.items() if isinstance(view.student.merger, SuperpixelMerger)]
    return name or [*with_superpixels, *views][0]


def draw_sample(distiller: nn.Module, sample: dict, view: str, chosen: int | None = None) -> np.ndarray:
    """Draw an image as a data pipeline gives it.

    Args:
        distiller: A ``RelationDistiller`` that was built with its teacher.
        sample: What ``PackInputs`` makes: 'inputs' ``(3, H, W)`` and 'data_samples'.
        view: Name of a view that a loss reads.
        chosen: The superpixel whose relations are shown; by default the teacher's in the middle of the image.

    Returns:
        The drawing, RGB of uint8 ``(h, w, 3)``.
    """
    from .drawing import draw  # noqa: PLC0415 (so that importing the package does not import matplotlib)

    batch = {key: [sample[key]] for key in ('inputs', 'data_samples')}
    inputs = distiller.data_preprocessor(batch, training=False)['inputs']
    sides = superpixels_of(distiller, inputs, view)
    rows = {name: sides[name][0] for name in ('teacher', 'student')}
    return draw(_picture(inputs[0], distiller.data_preprocessor), rows, chosen)


def _picture(image: torch.Tensor, preprocessor: nn.Module) -> np.ndarray:
    """A preprocessed image ``(3, H, W)`` as one to look at, ``(H, W, 3)`` of uint8; models see RGB."""
    statistics = InputStatistics.of(preprocessor)
    mean, std = (image.new_tensor(values).view(-1, 1, 1) for values in (statistics.mean, statistics.std))
    return (image * std + mean).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
