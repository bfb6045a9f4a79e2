"""Cells: how a token grid ``(B, C, H, W)`` is divided, and the average or maximum of each cell."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .sizes import Size, height_and_width


@dataclass(frozen=True)
class OutputGrid:
    """Cells given by their number instead of their size, so that any two grids yield the same number of cells.

    It may be used wherever a cell is. If the number does not divide a grid, the cells overlap as in adaptive pooling, and a
    token's own cell is the one that contains its center.

    Attributes:
        rows: Number of cells along the height.
        columns: Number of cells along the width.
    """

    rows: int
    columns: int


Cell = Size | OutputGrid


def cell_from_settings(size: Size, grid: Size | None, name: str = 'cell') -> tuple[int, int] | OutputGrid:
    """Read the two settings of a component: the size of a cell or, if ``grid`` is given, the number of cells.

    Args:
        size: Tokens per cell, one number or (height, width).
        grid: Rows and columns of cells, one number or both, instead of ``size``.
        name: Name of the setting ``size``, for messages.

    Raises:
        ValueError: A side is not a positive integer.
    """
    return height_and_width(size, name) if grid is None else OutputGrid(*height_and_width(grid, 'grid'))


def describe_cell(cell: Cell, name: str = 'cell') -> str:
    """Write a cell as the setting that it is from, ``cell=(2, 2)`` or ``grid=(7, 7)``."""
    return f'grid=({cell.rows}, {cell.columns})' if isinstance(cell, OutputGrid) else f'{name}={cell}'


def superpixel_grid(height: int, width: int, cell: Cell) -> tuple[int, int]:
    """Compute the rows and columns of cells in a grid; an incomplete cell counts.

    Raises:
        ValueError: A side of the cell is not a positive integer, or is larger than the grid.
    """
    if isinstance(cell, OutputGrid):
        if cell.rows > height or cell.columns > width:
            raise _too_large('grid', (cell.rows, cell.columns), (height, width))
        return cell.rows, cell.columns
    cell_height, cell_width = height_and_width(cell, 'cell')
    if cell_height > height or cell_width > width:
        raise _too_large('cell', (cell_height, cell_width), (height, width))
    return -(-height // cell_height), -(-width // cell_width)


def _too_large(name: str, size: tuple[int, int], grid: tuple[int, int]) -> ValueError:
    """The error about a cell, or a number of cells, that a token grid does not have room for."""
    return ValueError(
        f'{name} {size[0]}x{size[1]} is larger than the token grid {grid[0]}x{grid[1]}. Set a smaller merger.{name} (a '
        f"tokenizer's window or grid, if it has one), or use larger images. With model.input_size=(channels, height, width) "
        'of your images this shows when the model is built'
    )


def cell_of_token(height: int, width: int, cell: Cell, device: torch.device | None = None) -> torch.Tensor:
    """Compute the index of each token's own cell, ``(H*W,)`` of int64, row by row."""
    rows, columns = superpixel_grid(height, width, cell)
    row, column = torch.arange(height, device=device), torch.arange(width, device=device)
    if isinstance(cell, OutputGrid):
        row, column = (2 * row + 1) * rows // (2 * height), (2 * column + 1) * columns // (2 * width)
    else:
        cell_height, cell_width = height_and_width(cell, 'cell')
        row, column = row // cell_height, column // cell_width
    return (row[:, None] * columns + column[None, :]).flatten()


def average_cells(grid: torch.Tensor, cell: Cell) -> torch.Tensor:
    """Average each cell: the initial superpixels S^0 of the paper.

    A grid that the cell does not divide is padded at the bottom and right by replication, never cropped.

    Args:
        grid: Tokens ``(B, C, H, W)``.
        cell: Tokens per cell, or an :class:`OutputGrid`.

    Returns:
        ``(B, C, rows, columns)``.
    """
    cell = cell_size(grid, cell)
    if isinstance(cell, OutputGrid):
        return F.adaptive_avg_pool2d(grid, superpixel_grid(*grid.shape[-2:], cell))
    return F.avg_pool2d(pad_to_whole_cells(grid, cell), height_and_width(cell, 'cell'))


def maximum_cells(grid: torch.Tensor, cell: Cell) -> torch.Tensor:
    """Compute the maximum of each channel in each cell; arguments, padding and result as in :func:`average_cells`."""
    cell = cell_size(grid, cell)
    if isinstance(cell, OutputGrid):
        return F.adaptive_max_pool2d(grid, superpixel_grid(*grid.shape[-2:], cell))
    return F.max_pool2d(pad_to_whole_cells(grid, cell), height_and_width(cell, 'cell'))


def cell_size(grid: torch.Tensor, cell: Cell) -> Cell:
    """Compute the size of the cells if their number divides the grid; otherwise return ``cell`` as it is.

    Whole cells are pooled by their size, because adaptive pooling has no deterministic gradient on CUDA.
    """
    if isinstance(cell, OutputGrid) and not grid.shape[-2] % cell.rows and not grid.shape[-1] % cell.columns:
        return grid.shape[-2] // cell.rows, grid.shape[-1] // cell.columns
    return cell


def pad_to_whole_cells(grid: torch.Tensor, cell: Size) -> torch.Tensor:
    """Pad a grid at the bottom and right by replication until the cell divides it."""
    (cell_height, cell_width), (height, width) = height_and_width(cell, 'cell'), grid.shape[-2:]
    rows, columns = superpixel_grid(height, width, cell)
    padding = (0, columns * cell_width - width, 0, rows * cell_height - height)
    return F.pad(grid, padding, mode='replicate') if any(padding) else grid
