"""Drawings of the samples of a data pipeline."""

import numpy as np
import torch
from torch import nn

from ..config_errors import ConfigError, suggest
from ..distillers.input_statistics import InputStatistics
from ..mergers import SuperpixelMerger
from .superpixels import superpixels_of


def find_view(distiller: nn.Module, name: str | None = None, tap: str | None = None) -> str:
    """Choose the view to draw: the named one, or the first with superpixels, or the first.

    Args:
        distiller: A ``RelationDistiller`` that was built with its teacher.
        name: A view that a loss reads. Default: None.
        tap: A tap that the view must have. Default: None.

    Raises:
        ConfigError: There is no such view, no view at all, or no such tap.
    """
    views = getattr(getattr(distiller, 'distill', None), 'views', {})
    if not views:
        raise ConfigError('model.views: superpixels are drawn from a view that a loss reads, and there is none')
    if name is not None and name not in views:
        raise ConfigError(f'model.views has no {name!r} that a loss reads. {suggest(name, views)}')
    candidates = [key for key, view in views.items() if tap is None or tap in view.taps] or [*views]
    with_superpixels = [key for key in candidates if isinstance(views[key].merger, SuperpixelMerger)]
    chosen = name or [*with_superpixels, *candidates][0]
    if tap is not None and tap not in views[chosen].taps:
        raise ConfigError(f'model.views.{chosen} has no tap {tap!r}. {suggest(tap, views[chosen].taps)}')
    return chosen


def draw_sample(
    distiller: nn.Module, sample: dict, view: str, chosen: int | None = None, tap: str | None = None
) -> np.ndarray:
    """Draw the superpixels of one sample of a data pipeline.

    Args:
        distiller: A ``RelationDistiller`` that was built with its teacher.
        sample: Output of ``PackInputs``: 'inputs' ``(3, H, W)`` and 'data_samples'.
        view: Name of a view that a loss reads.
        chosen: Index of the superpixel whose relations are shown. Default: None, the teacher's in the middle of the image.
        tap: Name of a tap of the view. Default: None, the view's first.

    Returns:
        The drawing, RGB of uint8 ``(h, w, 3)``.
    """
    from .drawing import draw  # noqa: PLC0415 (so that importing the package does not import matplotlib)

    batch = {key: [sample[key]] for key in ('inputs', 'data_samples')}
    inputs = distiller.data_preprocessor(batch, training=False)['inputs']
    sides = superpixels_of(distiller, inputs, view, tap)
    rows = {name: sides[name][0] for name in ('teacher', 'student')}
    return draw(_denormalized(inputs[0], distiller.data_preprocessor), rows, chosen)


def _denormalized(image: torch.Tensor, preprocessor: nn.Module) -> np.ndarray:
    """The RGB picture ``(H, W, 3)`` of uint8 of a preprocessed image ``(3, H, W)``."""
    statistics = InputStatistics.from_preprocessor(preprocessor)
    mean, std = (image.new_tensor(values).view(-1, 1, 1) for values in (statistics.mean, statistics.std))
    return (image * std + mean).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
