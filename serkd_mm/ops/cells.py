"""Cells: how a token grid ``(B, C, H, W)`` is divided, and what each cell starts as."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class OutputGrid:
    """Cells by their number instead of their size: student and teacher of different resolution get equally many.

    Given wherever a cell is. A grid that the number does not divide has the overlapping cells of adaptive pooling, and a
    token's own cell is the one that its centre lies in.
    """

    rows: int
    columns: int


Cell = int | tuple[int, int] | OutputGrid


def superpixel_grid(height: int, width: int, cell: Cell) -> tuple[int, int]:
    """Rows and columns of superpixels that cells of ``cell`` tokens make of a grid; an incomplete cell counts.

    Raises:
        ValueError: A side of the cell is not a positive integer, or is larger than the grid.
    """
    if isinstance(cell, OutputGrid):
        if cell.rows > height or cell.columns > width:
            raise ValueError(f'grid {cell.rows}x{cell.columns} is larger than the token grid {height}x{width}')
        return cell.rows, cell.columns
    cell_height, cell_width = cell_sides(cell)
    if cell_height > height or cell_width > width:
        raise ValueError(f'cell {cell_height}x{cell_width} is larger than the token grid {height}x{width}')
    return -(-height // cell_height), -(-width // cell_width)


def as_cell(cell: int | tuple[int, int], grid: int | tuple[int, int] | None) -> tuple[int, int] | OutputGrid:
    """What mergers are told as the cell: its size, or where ``grid`` is given, the number of cells.

    Raises:
        ValueError: A side is not a positive integer.
    """
    return cell_sides(cell) if grid is None else OutputGrid(*cell_sides(grid, 'grid'))


def cell_sides(cell: int | tuple[int, int], name: str = 'cell') -> tuple[int, int]:
    """The cell as (height, width), in tokens.

    Raises:
        ValueError: A side is not a positive integer; the message calls it by its ``name``.
    """
    sides = tuple(cell) if isinstance(cell, (tuple, list)) else (cell, cell)
    if len(sides) != 2 or any(not isinstance(side, int) or isinstance(side, bool) or side < 1 for side in sides):
        raise ValueError(f'{name} must be a positive integer or a pair of them, but got {cell!r}')
    return sides


def cell_of_token(height: int, width: int, cell: Cell, device: torch.device | None = None) -> torch.Tensor:
    """Index of the cell each token lies in, ``(H*W,)`` of int64, row by row."""
    rows, columns = superpixel_grid(height, width, cell)
    row, column = torch.arange(height, device=device), torch.arange(width, device=device)
    if isinstance(cell, OutputGrid):
        row, column = (2 * row + 1) * rows // (2 * height), (2 * column + 1) * columns // (2 * width)
    else:
        cell_height, cell_width = cell_sides(cell)
        row, column = row // cell_height, column // cell_width
    return (row[:, None] * columns + column[None, :]).flatten()


def average_cells(grid: torch.Tensor, cell: Cell) -> torch.Tensor:
    """Average of each cell, ``(B, C, rows, columns)`` for a grid ``(B, C, H, W)``: the initial superpixels S^0 of the paper.

    A grid that the cell does not divide is padded at the bottom and right by replication, never cropped.
    """
    if isinstance(cell, OutputGrid):
        return F.adaptive_avg_pool2d(grid, superpixel_grid(*grid.shape[-2:], cell))
    return F.avg_pool2d(whole_cells(grid, cell), cell_sides(cell))


def maximum_cells(grid: torch.Tensor, cell: Cell) -> torch.Tensor:
    """Channel-wise maximum of each cell, ``(B, C, rows, columns)``; padded as :func:`average_cells`."""
    if isinstance(cell, OutputGrid):
        return F.adaptive_max_pool2d(grid, superpixel_grid(*grid.shape[-2:], cell))
    return F.max_pool2d(whole_cells(grid, cell), cell_sides(cell))


def whole_cells(grid: torch.Tensor, cell: int | tuple[int, int]) -> torch.Tensor:
    """The grid padded at the bottom and right by replication until the cell divides it."""
    (cell_height, cell_width), (height, width) = cell_sides(cell), grid.shape[-2:]
    rows, columns = superpixel_grid(height, width, cell)
    padding = (0, columns * cell_width - width, 0, rows * cell_height - height)
    return F.pad(grid, padding, mode='replicate') if any(padding) else grid
