"""Draw the superpixels of one image on both sides: outlines, mean colors, and the relations of one superpixel."""

from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .superpixels import Superpixels

_TITLES = ('superpixels', 'outlines', 'mean colors', 'distance to the marked one')
_LINE, _MARK = np.array([255, 230, 0], np.uint8), np.array([255, 0, 80], np.uint8)


def draw(
    picture: np.ndarray, sides: Mapping[str, Superpixels], chosen: int | None = None, inches: float = 2.4
) -> np.ndarray:
    """Draw the superpixels of one image.

    Args:
        picture: The image ``(H, W, 3)``, RGB of uint8.
        sides: Superpixels of the image by side, such as 'teacher' and 'student'. Each side is a row of the drawing.
        chosen: Index of the superpixel whose relations are drawn. Default: the one of the first side in the middle of the
            image.
        inches: Side of a panel, at 100 dots per inch. Default: 2.4.

    Returns:
        The drawing ``(h, w, 3)``, RGB of uint8.

    Raises:
        ValueError: There is no superpixel with the index ``chosen``.
    """
    figure = Figure(figsize=((1 + len(_TITLES)) * inches, len(sides) * inches), dpi=100, layout='constrained')
    axes = figure.subplots(len(sides), 1 + len(_TITLES), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    _show(axes[0, 0], picture, 'image')
    if chosen is None:
        height, width = picture.shape[:2]
        chosen = int(next(iter(sides.values())).labels[height // 2, width // 2])
    largest = max(float(side.relations.max()) for side in sides.values())
    for row, (name, side) in zip(axes, sides.items(), strict=True):
        labels = side.labels.numpy()
        if not 0 <= chosen < len(side.relations):
            raise ValueError(f'there is no superpixel {chosen}: the {name} has {len(side.relations)}, counted from 0')
        heat = colormaps['viridis_r'](side.relations[chosen].numpy()[labels] / largest)[..., :3]
        panels = (
            label_colors(labels, side.grid_shape),
            outlined(picture, labels, _LINE),
            mean_colors(picture, labels),
            outlined((255 * heat).astype(np.uint8), labels == chosen, _MARK),
        )
        for axis, panel, title in zip(row[1:], panels, _TITLES, strict=True):
            _show(axis, panel, f'{name}: {title}')
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def outlined(picture: np.ndarray, labels: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Return the picture with a line wherever the label changes to the right or below.

    Args:
        picture: The image ``(H, W, 3)``, RGB of uint8.
        labels: The superpixel of each pixel, ``(H, W)``.
        color: RGB of the line.
    """
    edge = np.zeros(labels.shape, bool)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return np.where(edge[..., None], color, picture)


def mean_colors(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the picture with each superpixel filled with the mean color of its pixels.

    Args:
        picture: The image ``(H, W, 3)``, RGB of uint8.
        labels: The superpixel of each pixel, ``(H, W)``.
    """
    flat = labels.ravel()
    count = np.maximum(np.bincount(flat), 1)
    means = np.stack([np.bincount(flat, channel.ravel()) / count for channel in np.moveaxis(picture, 2, 0)], axis=1)
    return means.round().astype(np.uint8)[labels]


def label_colors(labels: np.ndarray, grid_shape: tuple[int, int]) -> np.ndarray:
    """Return a map of the superpixels ``(H, W, 3)`` in which neighbors have different colors.

    Args:
        labels: The superpixel of each pixel, ``(H, W)``.
        grid_shape: Rows and columns of the grid of superpixels.
    """
    rows, columns = np.divmod(np.arange(grid_shape[0] * grid_shape[1]), grid_shape[1])
    colors = (255 * colormaps['tab20']((7 * rows + 3 * columns) % 20)[:, :3]).astype(np.uint8)
    return colors[labels]


def _show(axis: Axes, panel: np.ndarray, title: str) -> None:
    axis.imshow(panel)
    axis.set_title(title, fontsize=8)
