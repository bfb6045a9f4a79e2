"""Sizes in a config: of images, cells, windows and grids."""

Size = int | tuple[int, int]
"""One number, or (height, width)."""


def height_and_width(size: Size, name: str) -> tuple[int, int]:
    """Read a size that is given as one number or as (height, width).

    Args:
        size: The setting.
        name: Name of the setting, for the message.

    Raises:
        ValueError: A side is not a positive integer.
    """
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(sides) != 2 or any(not isinstance(side, int) or isinstance(side, bool) or side < 1 for side in sides):
        raise ValueError(f'{name} must be a positive integer or a pair of them, but got {size!r}')
    return sides
