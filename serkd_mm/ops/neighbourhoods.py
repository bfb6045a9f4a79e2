"""Sums over the 3 x 3 superpixels around each token's cell, and over nothing else: what superpixels are computed with.

Tokens lie cell by cell, T_mk ``(B, M, K, C)``, where K is the number of tokens of the largest cell, and weights by token and
neighbour, W_mko ``(B, M, K, 9)``. With S_m the superpixels ``(B, M, C)`` and m + o the neighbour of m in direction o,

    sum_mko W_mko <T_mk, S_(m+o)>

is linear in each of the three, and its derivatives are the three products that are needed: scores with respect to W,
weighted sums of tokens with respect to S, and with respect to T what both give back. Neighbours are gathered for a few
images at a time, so that memory stays O(9 N).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.autograd.function import once_differentiable

from .cells import Cell, OutputGrid, cell_of_token, cell_sides, superpixel_grid

# Numbers that are gathered at a time: on a CPU as many as its caches hold, on a GPU enough to keep it busy.
_GATHERED_SIZE = {'cpu': 2**19, 'cuda': 2**26}


@dataclass(frozen=True, eq=False)
class CellLayout:
    """Where the tokens of each cell and the neighbours of each superpixel are, for one shape of a grid.

    Attributes:
        tokens: Index ``(M * K,)`` of the token at each place of each cell; any token where the place is vacant.
        places: Index ``(N,)`` of the place of each token.
        vacant: Places ``(M, K, 1)`` without a token, in cells that have fewer than the largest.
        neighbours: Index ``(M * 9,)`` of the superpixels around each cell; the cell itself where there is none.
        absent: Directions ``(M, 1, 9)`` in which there is no superpixel.
        sources: Index ``(M * 9,)`` into (cell, direction) of the nine pairs that lead to each superpixel; where there is
            none, a direction of its own cell in which there is no superpixel either.
    """

    tokens: torch.Tensor
    places: torch.Tensor
    vacant: torch.Tensor
    neighbours: torch.Tensor
    absent: torch.Tensor
    sources: torch.Tensor

    def around(self, superpixels: torch.Tensor) -> torch.Tensor:
        """The neighbours ``(B, M, 9, ...)`` of each cell, of ``(B, M, ...)``."""
        return _select(superpixels, self.neighbours).unflatten(1, (-1, 9))

    def towards(self, pairs: torch.Tensor) -> torch.Tensor:
        """By superpixel ``(B, M, 9, ...)`` what cells hold by direction ``(B, M, 9, ...)``."""
        return _select(pairs.flatten(1, 2), self.sources).unflatten(1, (-1, 9))

    def dense(self, association: torch.Tensor) -> torch.Tensor:
        """The association ``(B, N, M)`` of one by cells ``(B, M, K, 9)``; of absent neighbours it is 0."""
        by_token = _select(association.flatten(1, 2), self.places)
        own = self.places // association.shape[2]
        columns = self.neighbours.view(-1, 9)[own].expand_as(by_token)
        return association.new_zeros(*by_token.shape[:2], association.shape[1]).scatter_add(2, columns, by_token)


def cell_layout(height: int, width: int, cell: Cell, device: torch.device) -> CellLayout:
    """The layout of a grid; made once per shape, cell and device.

    Raises:
        ValueError: A side of the cell is not a positive integer, or is larger than the grid.
    """
    return _cell_layout(height, width, cell if isinstance(cell, OutputGrid) else cell_sides(cell), device)


@lru_cache(maxsize=64)
def _cell_layout(height: int, width: int, cell: tuple[int, int] | OutputGrid, device: torch.device) -> CellLayout:
    rows, columns = superpixel_grid(height, width, cell)
    # A layout first made for inference must serve training too, where autograd keeps it.
    with torch.inference_mode(False):
        tensors = _places(cell_of_token(height, width, cell), rows * columns) + _directions(rows, columns)
        return CellLayout(*(tensor.to(device) for tensor in tensors))


def _places(own: torch.Tensor, num_cells: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``tokens``, ``places`` and ``vacant`` of a layout."""
    counts = own.bincount(minlength=num_cells)
    largest = int(counts.max())
    order = own.argsort(stable=True)
    rank = torch.arange(len(own)) - (counts.cumsum(0) - counts)[own[order]]
    places = torch.empty_like(own)
    places[order] = own[order] * largest + rank
    tokens, vacant = torch.zeros(num_cells * largest, dtype=own.dtype), torch.ones(num_cells * largest, dtype=torch.bool)
    tokens[places], vacant[places] = torch.arange(len(own)), False
    return tokens, places, vacant.view(num_cells, largest, 1)


def _directions(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``neighbours``, ``absent`` and ``sources`` of a layout; direction o is opposite to direction 8 - o."""
    cells, directions = torch.arange(rows * columns)[:, None], torch.arange(9)[None]
    row, column = cells // columns + directions // 3 - 1, cells % columns + directions % 3 - 1
    absent = (row < 0) | (row >= rows) | (column < 0) | (column >= columns)
    neighbours = torch.where(absent, cells, row * columns + column)
    sources = (neighbours * 9 + 8 - directions).where(~absent, cells * 9 + directions)
    return neighbours.flatten(), absent[:, None], sources.flatten()


class ToCells(torch.autograd.Function):
    """Tokens ``(B, N, C)`` by cells ``(B, M, K, C)``; vacant places must not be read."""

    @staticmethod
    def forward(ctx, tokens: torch.Tensor, layout: CellLayout) -> torch.Tensor:
        ctx.layout = layout
        return _select(tokens, layout.tokens).unflatten(1, layout.vacant.shape[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _select(gradient.flatten(1, 2), ctx.layout.places), None


class NeighbourScores(torch.autograd.Function):
    """Inner products ``(B, M, K, 9)`` of tokens ``(B, M, K, C)`` with the superpixels ``(B, M, C)`` around their cell.

    What they are with absent neighbours must not be read.
    """

    @staticmethod
    def forward(ctx, tokens: torch.Tensor, superpixels: torch.Tensor, layout: CellLayout) -> torch.Tensor:
        ctx.save_for_backward(tokens, superpixels)
        ctx.layout = layout
        return _scores(tokens, superpixels, layout)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tokens, superpixels = ctx.saved_tensors
        return _spread(gradient, superpixels, ctx.layout), _sums(gradient, tokens, ctx.layout), None


class WeightedSums(torch.autograd.Function):
    """Superpixels ``(B, M, C)``: sums of the tokens ``(B, M, K, C)`` around them by their weights ``(B, M, K, 9)``.

    Weights must be 0 at vacant places and for absent neighbours.
    """

    @staticmethod
    def forward(ctx, weights: torch.Tensor, tokens: torch.Tensor, layout: CellLayout) -> torch.Tensor:
        ctx.save_for_backward(weights, tokens)
        ctx.layout = layout
        return _sums(weights, tokens, layout)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weights, tokens = ctx.saved_tensors
        by_weights = _scores(tokens, gradient, ctx.layout) if ctx.needs_input_grad[0] else None
        return by_weights, _spread(weights, gradient, ctx.layout), None


class ColumnSoftmax(torch.autograd.Function):
    """Softmax of scores ``(B, M, K, 9)`` over the tokens of each superpixel; -inf at vacant places and absent neighbours."""

    @staticmethod
    def forward(ctx, scores: torch.Tensor, layout: CellLayout) -> torch.Tensor:
        totals = layout.towards(scores.mT).flatten(2).logsumexp(dim=2)
        weights = (scores - layout.around(totals)[:, :, None]).exp_()
        ctx.save_for_backward(weights)
        ctx.layout = layout
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (weights,) = ctx.saved_tensors
        products = weights * gradient
        totals = ctx.layout.towards(products.sum(dim=2)).sum(dim=2)
        return products - weights * ctx.layout.around(totals)[:, :, None], None


def _scores(tokens: torch.Tensor, superpixels: torch.Tensor, layout: CellLayout) -> torch.Tensor:
    """<T_mk, S_(m+o)>, ``(B, M, K, 9)``."""
    scores = tokens.new_empty(*tokens.shape[:3], 9)
    for images in _chunks(superpixels):
        scores[images] = tokens[images] @ layout.around(superpixels[images]).mT
    return scores


def _spread(weights: torch.Tensor, superpixels: torch.Tensor, layout: CellLayout) -> torch.Tensor:
    """sum_o W_mko S_(m+o), ``(B, M, K, C)``."""
    tokens = weights.new_empty(*weights.shape[:3], superpixels.shape[2])
    for images in _chunks(superpixels):
        tokens[images] = weights[images] @ layout.around(superpixels[images])
    return tokens


def _sums(weights: torch.Tensor, tokens: torch.Tensor, layout: CellLayout) -> torch.Tensor:
    """sum_ko W_mko T_mk over the cells m and directions o that lead to a superpixel, ``(B, M, C)``."""
    sums = tokens.new_empty(*tokens.shape[:2], tokens.shape[3])
    for images in _chunks(sums):
        sums[images] = layout.towards(weights[images].mT @ tokens[images]).sum(dim=2)
    return sums


def _select(rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows ``(B, I, ...)`` of ``(B, P, ...)``; along the first dimension, where torch copies them whole and in parallel."""
    batch, num_rows = rows.shape[:2]
    first = torch.arange(0, batch * num_rows, num_rows, device=index.device)
    return rows.flatten(0, 1).index_select(0, (first[:, None] + index).flatten()).unflatten(0, (batch, -1))


def _chunks(superpixels: torch.Tensor) -> Iterator[slice]:
    """Images, as many at a time as there is room for the neighbours of their superpixels ``(B, M, C)``."""
    batch, num_superpixels, channels = superpixels.shape
    room = _GATHERED_SIZE.get(superpixels.device.type, _GATHERED_SIZE['cpu'])
    size = max(room // (9 * num_superpixels * channels), 1)
    for first in range(0, batch, size):
        yield slice(first, first + size)
