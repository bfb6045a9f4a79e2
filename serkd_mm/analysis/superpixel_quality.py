"""What superpixels are: how far from cells of a regular grid, and how much of the tokens they explain.

Every function takes a batch, computes in float64 and returns a value for each image.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..ops.cells import Cell, average_cells, cell_of_token
from ..ops.superpixels import associate_superpixels


@dataclass(frozen=True)
class Variant:
    """Settings of the association of tokens with superpixels; the defaults are the paper's (arXiv:2503.21269).

    Attributes:
        normalize: Whether layer-normalized tokens are compared.
        tau: Temperature of Q.
        exclude_self: Whether a token is compared with the mean of a superpixel's other tokens.
    """

    normalize: bool = False
    tau: float = 1.0
    exclude_self: bool = False

    @classmethod
    def from_name(cls, name: str) -> 'Variant':
        """Read settings that are joined by plus signs: ``'paper'`` or, for example, ``'normalize+tau=0.5+exclude-self'``.

        Args:
            name: The settings.

        Raises:
            ValueError: A setting is unknown or appears twice, or ``tau`` is not a positive finite number.
        """
        settings = {}
        for part in name.split('+') if name != 'paper' else ():
            setting, _, value = part.partition('=')
            if part in ('normalize', 'exclude-self'):
                value = True
            elif setting == 'tau':
                value = _positive(value, name)
            else:
                raise ValueError(f'{name!r}: a variant is paper, or normalize, tau=NUMBER and exclude-self joined by +')
            if setting in settings:
                raise ValueError(f'{name!r}: {setting} appears twice')
            settings[setting] = value
        return cls(**{setting.replace('-', '_'): value for setting, value in settings.items()})

    def __str__(self) -> str:
        parts = (
            ['normalize'] * self.normalize + [f'tau={self.tau:g}'] * (self.tau != 1) + ['exclude-self'] * self.exclude_self
        )
        return '+'.join(parts) or 'paper'


def measure(grid: Tensor, cell: Cell, num_iters: int, variant: Variant) -> dict[str, Tensor]:
    """Measure the superpixels of a token grid.

    Args:
        grid: Tokens ``(B, C, H, W)``.
        cell: Tokens per cell, or an :class:`OutputGrid`.
        num_iters: Iterations.
        variant: Settings of the association.

    Returns:
        Values ``(B,)`` by name: ``own_cell`` (:func:`own_cell_share`), ``entropy`` (:func:`association_entropy`),
        ``explained`` (:func:`explained_variance` of the superpixels), ``explained_by_cells`` (of average pooling) and
        ``correlation`` (:func:`distance_correlation` of the two).
    """
    superpixels, association = associate_superpixels(grid, cell, num_iters, **asdict(variant))
    own = cell_of_token(*grid.shape[-2:], cell, grid.device)
    cells = torch.nn.functional.one_hot(own, association.shape[2]).expand_as(association)
    tokens, merged, pooled = (part.flatten(2).mT for part in (grid, superpixels, average_cells(grid, cell)))
    return {
        'own_cell': own_cell_share(association, own),
        'entropy': association_entropy(association),
        'explained': explained_variance(tokens, merged, association),
        'explained_by_cells': explained_variance(tokens, pooled, cells),
        'correlation': distance_correlation(merged, pooled),
    }


def own_cell_share(association: Tensor, own: Tensor) -> Tensor:
    """Compute the share of the tokens whose most probable superpixel is that of their own cell.

    Args:
        association: Q ``(B, N, M)``.
        own: Index of each token's own cell, ``(N,)``.

    Returns:
        Shares ``(B,)``.
    """
    return (association.argmax(dim=2) == own).double().mean(dim=1)


def association_entropy(association: Tensor) -> Tensor:
    r"""Compute the mean entropy of a token's association, in nats; 0 if each token has one superpixel, ln 9 at most.

    .. math::
        H = -\frac{1}{N} \sum_{i, j} Q_{ij} \ln Q_{ij}

    Args:
        association: Q ``(B, N, M)``.

    Returns:
        Entropies ``(B,)``.
    """
    association = association.double()
    return -torch.xlogy(association, association).sum(dim=2).mean(dim=1)


def explained_variance(tokens: Tensor, merged: Tensor, association: Tensor) -> Tensor:
    r"""Compute the share of the variance of an image's tokens that merged tokens explain.

    .. math::
        R^2 = 1 - \frac{\lVert X - Q S \rVert^2}{\lVert X - \bar X \rVert^2}

    It is 1 if the tokens can be rebuilt from the merged tokens and the association, and 0 if these are no better than the
    mean token. Of average pooling, Q is one-hot at a token's own cell. Equal tokens have no variance: not a number.

    Args:
        tokens: X ``(B, N, C)``.
        merged: S ``(B, M, C)``.
        association: Q ``(B, N, M)``, rows summing to 1.

    Returns:
        Shares ``(B,)``.
    """
    tokens = tokens.double()
    rest = tokens - association.double() @ merged.double()
    variance = _or_nan((tokens - tokens.mean(dim=1, keepdim=True)).square().sum(dim=(1, 2)), tokens)
    return 1 - rest.square().sum(dim=(1, 2)) / variance


def distance_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Compute Pearson's correlation of the pairwise distances between tokens at the same positions.

    Args:
        first: Tokens ``(B, M, C)``.
        second: Tokens ``(B, M, C)``; their width may be another.

    Returns:
        Correlations ``(B,)``; not a number where all distances of one side are equal, as with fewer than three tokens.
    """
    rows, columns = torch.triu_indices(first.shape[1], first.shape[1], offset=1)
    sides, variances = [], []
    for tokens in (first.double(), second.double()):
        distances = (tokens[:, rows] - tokens[:, columns]).norm(dim=2)
        sides.append(distances - distances.mean(dim=1, keepdim=True))
        variances.append(_or_nan(sides[-1].square().sum(dim=1), tokens))
    return (sides[0] * sides[1]).sum(dim=1) / (variances[0] * variances[1]).sqrt()


def _or_nan(variance: Tensor, tokens: Tensor) -> Tensor:
    """The variance of each image; not a number where it is rounding error of float32 tokens of this size."""
    return variance.masked_fill(variance <= 1e-12 * tokens.square().sum(dim=(1, 2)), torch.nan)


def _positive(value: str, name: str) -> float:
    """The number of a setting."""
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < float('inf'):
        raise ValueError(f'{name!r}: tau must be a positive finite number, but is {value!r}')
    return number
