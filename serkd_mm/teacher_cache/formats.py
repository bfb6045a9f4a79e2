"""How one output of the teacher is stored: its numbers as bytes of a fixed size for each image."""

from abc import ABC, abstractmethod
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..ops.isometric_triangle import isometric_triangle, tokens_from_triangle, triangle_size
from ..ops.pooled import pooled
from ..ops.precision import at_least_float32, autocast_off
from .errors import CacheError
from .token_basis import TokenBasis, describe_basis

_DTYPES = {'float16': torch.float16, 'float32': torch.float32}


class RecordFormat(ABC):
    """Base class of formats: tensors of a batch to bytes and back.

    Attributes:
        num_bytes: Bytes of each image.
    """

    num_bytes: int

    @abstractmethod
    def encode(self, values: torch.Tensor) -> np.ndarray:
        """Return the bytes of a batch.

        Args:
            values: Output of the teacher ``(B, ...)``, of any floating dtype, on any device.

        Returns:
            uint8 ``(B, num_bytes)``; numbers are little endian.

        Raises:
            ValueError: The values have another shape, are not finite, or leave the range of the dtype.
        """

    @abstractmethod
    def decode(self, records: torch.Tensor) -> torch.Tensor:
        """Return what a loss reads as the teacher's side.

        Args:
            records: uint8 ``(B, num_bytes)`` on any device.

        Returns:
            float32 ``(B, ...)`` on that device.
        """

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What :func:`build_format` builds the format from, as JSON."""

    @abstractmethod
    def example(self, batch_size: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """Return random values that can be stored, float32 ``(batch_size, ...)``, for a dry run without the teacher."""


class TriangleFormat(RecordFormat):
    """Tokens as an isometric triangle: what relation losses between the tokens of an image need, and no more.

    See :mod:`serkd_mm.ops.isometric_triangle`. The bytes of an image are unique only up to rounding of its distances.

    Args:
        num_tokens: Number of tokens L.
        num_channels: Number of channels C.
        dtype: ``'float16'`` or ``'float32'``. Default: ``'float16'``.
    """

    def __init__(self, num_tokens: int, num_channels: int, dtype: str = 'float16') -> None:
        self.num_tokens, self.num_channels = num_tokens, num_channels
        self.dtype = _check_dtype(dtype)
        self.num_bytes = triangle_size(num_tokens, num_channels) * _DTYPES[dtype].itemsize

    def encode(self, values: torch.Tensor) -> np.ndarray:
        _check_shape(self, values, (self.num_tokens, self.num_channels))
        return _as_bytes(_rounded(isometric_triangle(values), self.dtype))

    def decode(self, records: torch.Tensor) -> torch.Tensor:
        return tokens_from_triangle(_from_bytes(records, self.dtype), self.num_tokens, self.num_channels)

    @property
    def settings(self) -> dict[str, Any]:
        return {
            'type': 'TriangleFormat',
            'num_tokens': self.num_tokens,
            'num_channels': self.num_channels,
            'dtype': self.dtype,
        }

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> torch.Tensor:
        return torch.randn(batch_size, self.num_tokens, self.num_channels, generator=generator)

    def __str__(self) -> str:
        return f'isometric triangle of {self.num_tokens} tokens, {self.dtype}'


class DenseFormat(RecordFormat):
    """A tensor as it is.

    Of a vector for each image, such as logits, the largest stays the largest: others that are rounded to the same number are
    moved down by one step of float16.

    Args:
        shape: Shape of the tensor of an image, without the batch.
        dtype: ``'float16'`` or ``'float32'``. Default: ``'float16'``.
    """

    def __init__(self, shape: tuple[int, ...], dtype: str = 'float16') -> None:
        self.shape = tuple(shape)
        self.dtype = _check_dtype(dtype)
        self.num_bytes = prod(self.shape) * _DTYPES[dtype].itemsize

    def encode(self, values: torch.Tensor) -> np.ndarray:
        _check_shape(self, values, self.shape)
        rounded = _rounded(values, self.dtype)
        if len(self.shape) == 1:
            rounded = _keep_largest(rounded, values.argmax(dim=1, keepdim=True))
        return _as_bytes(rounded)

    def decode(self, records: torch.Tensor) -> torch.Tensor:
        return _from_bytes(records, self.dtype).unflatten(1, self.shape)

    @property
    def settings(self) -> dict[str, Any]:
        return {'type': 'DenseFormat', 'shape': list(self.shape), 'dtype': self.dtype}

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> torch.Tensor:
        return torch.randn(batch_size, *self.shape, generator=generator)

    def __str__(self) -> str:
        return f'{" x ".join(map(str, self.shape))}, {self.dtype}'


class TopKFormat(RecordFormat):
    """The k largest probabilities at temperature 1; the rest is spread evenly over the other classes.

    Stored are the classes, from the most probable down, their log-probabilities in float16, and the log-probability that
    each of the other classes gets. The predicted class is exact.

    Args:
        num_classes: Number of classes K.
        k: Number of classes that are stored, below K. 1 is enough for hard labels.

    Raises:
        ValueError: ``k`` is not between 1 and K - 1.
    """

    def __init__(self, num_classes: int, k: int) -> None:
        if not isinstance(k, int) or not 1 <= k < num_classes:
            raise ValueError(f'k must be an integer between 1 and {num_classes - 1} of {num_classes} classes, but got {k!r}')
        self.num_classes, self.k = num_classes, k
        self._index_bytes = 2 if num_classes <= 2**16 else 4
        self.num_bytes = k * self._index_bytes + (k + 1) * 2

    def encode(self, values: torch.Tensor) -> np.ndarray:
        _check_shape(self, values, (self.num_classes,))
        log_prob = values.double().log_softmax(dim=1)
        # A stable order: of equal logits the first class is the predicted one, as of the logits themselves.
        classes = log_prob.sort(dim=1, descending=True, stable=True).indices[:, : self.k]
        others = log_prob.scatter(1, classes, -torch.inf).logsumexp(dim=1, keepdim=True)
        rest = others - np.log(self.num_classes - self.k)
        stored = torch.cat([log_prob.gather(1, classes), rest], dim=1).clamp(min=torch.finfo(torch.float16).min)
        stored = _keep_largest(_rounded(stored, 'float16'), torch.zeros_like(classes[:, :1]))
        indices = classes.cpu().numpy().astype(f'<u{self._index_bytes}')
        return np.concatenate([_as_bytes(indices), _as_bytes(stored)], axis=1)

    def decode(self, records: torch.Tensor) -> torch.Tensor:
        indices, stored = records.split([self.k * self._index_bytes, (self.k + 1) * 2], dim=1)
        weights = 256 ** torch.arange(self._index_bytes, device=records.device)
        classes = (indices.unflatten(1, (self.k, -1)).long() * weights).sum(dim=2)  # torch 2.1 has no uint16.
        stored = _from_bytes(stored, 'float16')
        return stored[:, -1:].repeat(1, self.num_classes).scatter(1, classes, stored[:, :-1])

    @property
    def settings(self) -> dict[str, Any]:
        return {'type': 'TopKFormat', 'num_classes': self.num_classes, 'k': self.k}

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> torch.Tensor:
        return torch.randn(batch_size, self.num_classes, generator=generator).log_softmax(dim=1)

    def __str__(self) -> str:
        return f'top {self.k} of {self.num_classes} classes, float16'


class MeanFormat(RecordFormat):
    """The mean over the positions of tokens ``(B, L, C)`` or a map ``(B, C, H, W)``, or a vector ``(B, C)`` as it is.

    Args:
        num_channels: Number of channels C.
        dtype: ``'float16'`` or ``'float32'``. Default: ``'float16'``.
    """

    def __init__(self, num_channels: int, dtype: str = 'float16') -> None:
        self.num_channels = num_channels
        self.dtype = _check_dtype(dtype)
        self.num_bytes = num_channels * _DTYPES[dtype].itemsize

    def encode(self, values: torch.Tensor) -> np.ndarray:
        values = pooled(values, 'MeanFormat')
        _check_shape(self, values, (self.num_channels,))
        return _as_bytes(_rounded(values, self.dtype))

    def decode(self, records: torch.Tensor) -> torch.Tensor:
        return _from_bytes(records, self.dtype)

    @property
    def settings(self) -> dict[str, Any]:
        return {'type': 'MeanFormat', 'num_channels': self.num_channels, 'dtype': self.dtype}

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> torch.Tensor:
        return torch.randn(batch_size, self.num_channels, generator=generator)

    def __str__(self) -> str:
        return f'mean of {self.num_channels} channels, {self.dtype}'


class BasisFormat(RecordFormat):
    """Tokens as int8 coefficients of a basis that all images share; see :mod:`serkd_mm.teacher_cache.token_basis`.

    Args:
        shape: (L, C): number of tokens and channels.
        basis: File of the basis, in the folder of the cache.

    Raises:
        CacheError: The file is missing or damaged.
        ValueError: The basis is for another number of channels.
    """

    def __init__(self, shape: tuple[int, int], basis: str | Path) -> None:
        self.shape, self.file = tuple(shape), Path(basis)
        self.basis = TokenBasis.load(basis)
        if self.basis.num_channels != self.shape[1]:
            raise ValueError(f'{basis} has {self.basis.num_channels} channels, but the tokens have {self.shape[1]}')
        self.num_bytes = self.shape[0] * self.basis.rank

    def encode(self, values: torch.Tensor) -> np.ndarray:
        _check_shape(self, values, self.shape)
        if not values.isfinite().all():
            raise ValueError('the tokens are not finite: they hold NaN or infinity')
        with autocast_off(values):
            return _as_bytes(self._basis_on(values.device).encode(values).cpu().numpy())

    def decode(self, records: torch.Tensor) -> torch.Tensor:
        codes = records.clone(memory_format=torch.contiguous_format).view(torch.int8)
        with autocast_off(records):
            return self._basis_on(records.device).decode(codes.unflatten(1, (self.shape[0], -1)))

    def _basis_on(self, device: torch.device) -> TokenBasis:
        """Move the basis to the device of the first batch, where it stays."""
        if self.basis.mean.device != device:
            self.basis = self.basis.to(device)
        return self.basis

    @property
    def settings(self) -> dict[str, Any]:
        return {
            'type': 'BasisFormat',
            'shape': list(self.shape),
            'basis': self.file.name,
            'rank': self.basis.rank,
            'sha256': self.basis.sha256,
        }

    def example(self, batch_size: int, generator: torch.Generator | None = None) -> torch.Tensor:
        return torch.randn(batch_size, *self.shape, generator=generator)

    def __str__(self) -> str:
        return describe_basis(*self.shape, self.basis.rank)


FORMATS = {kind.__name__: kind for kind in (TriangleFormat, DenseFormat, TopKFormat, MeanFormat, BasisFormat)}


def build_format(settings: dict[str, Any], folder: str | Path) -> RecordFormat:
    """Build a format from its settings.

    Args:
        settings: What :attr:`RecordFormat.settings` returned.
        folder: The folder of the cache, which holds the files of bases.

    Raises:
        CacheError: The file of a basis is missing, or is another one.
    """
    settings = dict(settings)
    kind = FORMATS[settings.pop('type')]
    if kind is not BasisFormat:
        return kind(**settings)
    built = BasisFormat(settings['shape'], Path(folder) / settings['basis'])
    if built.settings['sha256'] != settings['sha256']:
        raise CacheError(
            f'{built.file} is not the basis that the records were written with. Restore it, or make the cache anew'
        )
    return built


def _check_dtype(dtype: str) -> str:
    """Check the setting ``dtype``, and return it."""
    if dtype not in _DTYPES:
        raise ValueError(f'dtype must be one of {", ".join(_DTYPES)}, but got {dtype!r}')
    return dtype


def _check_shape(kind: RecordFormat, values: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Raise if an image of the batch has another shape."""
    if values.shape[1:] != shape:
        raise ValueError(f'{type(kind).__name__} stores shape {shape} of each image, but got {tuple(values.shape[1:])}')


def _rounded(values: torch.Tensor, dtype: str) -> np.ndarray:
    """Round a batch to a dtype of records, little endian."""
    exact = at_least_float32(values.detach()).cpu().numpy()
    with np.errstate(over='ignore'):
        rounded = exact.astype(f'<f{_DTYPES[dtype].itemsize}')
    if not np.isfinite(exact).all():
        raise ValueError('the values are not finite: they hold NaN or infinity')
    if not np.isfinite(rounded).all():
        largest, limit = np.abs(exact).max(), np.finfo(rounded.dtype).max
        raise ValueError(f'{largest:.3g} is larger than {dtype} can hold ({limit:.0f}). Use --dtype float32')
    return rounded


def _keep_largest(rounded: np.ndarray, largest: torch.Tensor) -> np.ndarray:
    """Move down what rounding has made equal to the largest number, by one step of the dtype.

    Args:
        rounded: Numbers ``(B, n)``.
        largest: Index of the largest number of each row before rounding, ``(B, 1)``.
    """
    largest = largest.cpu().numpy()
    maximum = np.take_along_axis(rounded, largest, axis=1)
    moved = np.where(rounded == maximum, np.nextafter(maximum, np.array(-np.inf, rounded.dtype)), rounded)
    np.put_along_axis(moved, largest, maximum, axis=1)
    return moved


def _as_bytes(numbers: np.ndarray) -> np.ndarray:
    """The bytes ``(B, num_bytes)`` of a batch."""
    return np.ascontiguousarray(numbers).reshape(len(numbers), -1).view(np.uint8)


def _from_bytes(records: torch.Tensor, dtype: str) -> torch.Tensor:
    """Numbers ``(B, n)`` in float32 from their bytes."""
    # A copy, because a slice of a record may begin at any byte.
    return records.clone(memory_format=torch.contiguous_format).view(_DTYPES[dtype]).float()
