"""A basis of principal components that the tokens of all images share, to store them as int8 coefficients."""

import hashlib
import io
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..fileio.atomic_backend import write_atomically
from .errors import CacheError

_LARGEST = 127  # Of int8, the same on both sides of 0.


def describe_basis(num_tokens: int, num_channels: int, rank: int) -> str:
    """Return in words how tokens are stored by a basis, for tables."""
    return f'{num_tokens} x {num_channels} as PCA of {rank} dimensions, int8'


@dataclass(frozen=True)
class TokenBasis:
    """Orthonormal directions, the mean token, and the size of one step of int8 along each direction.

    Attributes:
        mean: Mean token ``(C,)``, float32.
        basis: Directions ``(C, r)`` of the largest variance, float32.
        scales: Step of the coefficients of each direction ``(r,)``, float32.
        sha256: Of the file; None before it is saved.
    """

    mean: torch.Tensor
    basis: torch.Tensor
    scales: torch.Tensor
    sha256: str | None = None

    @property
    def num_channels(self) -> int:
        """Number of channels C."""
        return self.basis.shape[0]

    @property
    def rank(self) -> int:
        """Number of directions r."""
        return self.basis.shape[1]

    def encode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the coefficients ``(..., r)`` of tokens ``(..., C)`` in steps, int8; larger ones are clipped."""
        coefficients = (tokens.float() - self.mean) @ self.basis / self.scales
        return coefficients.round().clamp(-_LARGEST, _LARGEST).to(torch.int8)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return tokens ``(..., C)`` in float32 from coefficients ``(..., r)``."""
        return (codes.float() * self.scales) @ self.basis.T + self.mean

    def mean_squared_error(self, tokens: torch.Tensor) -> float:
        """Compute the mean squared error of the stored tokens: by so much a perfect student's L_F differs from 0."""
        return float((self._stored(tokens) - tokens.double()).square().mean())

    def relative_error(self, tokens: torch.Tensor) -> float:
        """Compute the squared error of the stored tokens as a share of the variance around the basis's mean token."""
        error = (self._stored(tokens) - tokens.double()).square().sum()
        return float(error / (tokens.double() - self.mean.double()).square().sum())

    def _stored(self, tokens: torch.Tensor) -> torch.Tensor:
        """What is read after tokens have been stored."""
        return self.decode(self.encode(tokens)).double()

    def to(self, device: torch.device) -> 'TokenBasis':
        """Return the basis on a device."""
        return replace(self, mean=self.mean.to(device), basis=self.basis.to(device), scales=self.scales.to(device))

    def save(self, path: str | Path) -> 'TokenBasis':
        """Write the basis to a file, which appears complete or not at all.

        Returns:
            The basis with the ``sha256`` of the file.

        Raises:
            WriteError: The file cannot be written.
        """
        buffer = io.BytesIO()
        np.savez(buffer, **{name: getattr(self, name).cpu().numpy() for name in ('mean', 'basis', 'scales')})
        content = buffer.getvalue()
        write_atomically(content, path, 'the same command then continues')
        return replace(self, sha256=hashlib.sha256(content).hexdigest())

    @classmethod
    def load(cls, path: str | Path) -> 'TokenBasis':
        """Read a basis that was saved.

        Raises:
            CacheError: The file is missing or damaged.
        """
        try:
            content = Path(path).read_bytes()
            with np.load(io.BytesIO(content)) as arrays:
                parts = {name: torch.from_numpy(arrays[name]) for name in ('mean', 'basis', 'scales')}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise CacheError(f'{path}, the basis of stored tokens, cannot be read: {error}. Make the cache anew') from error
        return cls(**parts, sha256=hashlib.sha256(content).hexdigest())


@torch.no_grad()
def fit_basis(tokens: torch.Tensor, rank: int) -> TokenBasis:
    """Find the directions of the largest variance, and the step along each that loses least.

    Args:
        tokens: Tokens ``(n, C)`` of many images, on any device; computed in float64.
        rank: Number r of directions.

    Returns:
        The basis, in float32 on the device of the tokens. A step is the largest coefficient over 127, or that halved up to
        four times, which clips the largest: whichever has the smallest squared error on these tokens.

    Raises:
        ValueError: ``rank`` is not between 1 and C, or the tokens are not finite.
    """
    if not 1 <= rank <= tokens.shape[1]:
        raise ValueError(f'rank must be between 1 and the number of channels, {tokens.shape[1]}, but got {rank}')
    if not tokens.isfinite().all():
        raise ValueError('the tokens are not finite: they hold NaN or infinity')
    tokens = tokens.double()
    mean = tokens.mean(dim=0)
    centered = tokens - mean
    _, directions = torch.linalg.eigh(centered.T @ centered)
    basis = directions[:, -rank:].flip(1)
    return TokenBasis(mean.float(), basis.float().contiguous(), _best_scales(centered @ basis).float())


def _best_scales(coefficients: torch.Tensor) -> torch.Tensor:
    """The step ``(r,)`` of each coefficient ``(n, r)``; 1 where all are 0."""
    largest = coefficients.abs().amax(dim=0)
    widest = torch.where(largest > 0, largest / _LARGEST, 1.0)
    candidates = torch.stack([widest / 2**halvings for halvings in range(5)])
    errors = torch.stack([_squared_errors(coefficients, scales) for scales in candidates])
    return candidates.gather(0, errors.argmin(dim=0, keepdim=True))[0]


def _squared_errors(coefficients: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Squared error of each coefficient ``(r,)``."""
    stored = (coefficients / scales).round().clamp(-_LARGEST, _LARGEST) * scales
    return (stored - coefficients).square().sum(dim=0)
