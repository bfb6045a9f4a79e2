"""Superpixel tokens: soft clustering of a token grid (paper, section IV-A, equations 7 and 8).

A token grid ``(B, C, H, W)`` is divided into cells; each cell starts one superpixel. Tokens are then softly assigned to the
3 x 3 superpixels around their own cell, and superpixels become the weighted means of their tokens.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F

from .precision import at_least_float32, autocast_off


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


def superpixel_tokens(
    grid: torch.Tensor,
    cell: Cell = 2,
    num_iters: int = 1,
    detach_association: bool = False,
) -> torch.Tensor:
    """Superpixel tokens S^T of a token grid; see :func:`associate_superpixels`, which also returns the association.

    Returns:
        Superpixel tokens ``(B, M, C)``, row by row over the superpixel grid.
    """
    return associate_superpixels(grid, cell, num_iters, detach_association)[0]


def associate_superpixels(
    grid: torch.Tensor,
    cell: Cell = 2,
    num_iters: int = 1,
    detach_association: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cluster a token grid into superpixels, equations 7 and 8.

    S^0 is the average of each cell. Each iteration takes Q = softmax(T S^T / sqrt(C)) over the 3 x 3 superpixels around a
    token's own cell, then S = Q_hat^T T with Q normalised over the tokens of each column.

    Choices: at the border of the grid there are fewer than nine superpixels and the softmax runs over those that exist
    (zero padding, as in some code for [20], would leak mass to superpixels that are not there). Columns are normalised in
    log space, which is the same number, so that a superpixel that no token prefers is still the mean of its tokens instead
    of 0/0. Computed in float32 or better, whatever the autocast format.

    Args:
        grid: Tokens ``(B, C, H, W)`` of any floating format.
        cell: Tokens per cell, one number or (height, width); or an :class:`OutputGrid`. The paper's H_t x W_t, 2 by default.
        num_iters: The paper's T, at least 1.
        detach_association: Stop the gradient at Q; it then reaches the tokens through equation 8 alone.

    Returns:
        Superpixel tokens ``(B, M, C)`` and the association Q of the last iteration ``(B, H*W, M)``, rows summing to 1; both
        in the format of the grid promoted to at least float32.

    Raises:
        ValueError: ``grid`` is not 4-D, ``cell`` or ``num_iters`` is not positive, or the cell is larger than the grid.
    """
    if grid.ndim != 4:
        raise ValueError(f'superpixels are taken of a token grid (B, C, H, W), but got shape {tuple(grid.shape)}')
    if num_iters < 1:
        raise ValueError(f'num_iters must be at least 1, but got {num_iters}')
    height, width = grid.shape[-2:]
    grid = at_least_float32(grid)
    cell = cell if isinstance(cell, OutputGrid) else cell_sides(cell)
    far = _far_superpixels(height, width, cell, grid.device)
    with autocast_off(grid):
        superpixels = average_cells(grid, cell).flatten(2).mT
        tokens = grid.flatten(2).mT
        for _ in range(num_iters):
            scores = tokens @ superpixels.mT * grid.shape[1] ** -0.5
            log_association = scores.masked_fill(far, -torch.inf).log_softmax(dim=2)
            if detach_association:
                log_association = log_association.detach()
            superpixels = log_association.softmax(dim=1).mT @ tokens
        return superpixels, log_association.exp()


@lru_cache(maxsize=64)
def _far_superpixels(height: int, width: int, cell: tuple[int, int] | OutputGrid, device: torch.device) -> torch.Tensor:
    """Mask ``(N, M)``, true where a superpixel is not among the 3 x 3 around the token's own cell."""
    rows, columns = superpixel_grid(height, width, cell)
    # A mask first made for inference must serve training too, where autograd keeps it.
    with torch.inference_mode(False):
        own = cell_of_token(height, width, cell, device)
        other = torch.arange(rows * columns, device=device)
        row_distance = (own[:, None] // columns - other[None, :] // columns).abs()
        column_distance = (own[:, None] % columns - other[None, :] % columns).abs()
        return torch.maximum(row_distance, column_distance) > 1


def whole_cells(grid: torch.Tensor, cell: int | tuple[int, int]) -> torch.Tensor:
    """The grid padded at the bottom and right by replication until the cell divides it."""
    (cell_height, cell_width), (height, width) = cell_sides(cell), grid.shape[-2:]
    rows, columns = superpixel_grid(height, width, cell)
    padding = (0, columns * cell_width - width, 0, rows * cell_height - height)
    return F.pad(grid, padding, mode='replicate') if any(padding) else grid
