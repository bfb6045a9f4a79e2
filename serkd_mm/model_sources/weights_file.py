"""The file with the teacher's weights, given by a path or a URL."""

import hashlib
import logging
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from threading import Event
from urllib.parse import urlsplit

import torch
from mmengine.logging import print_log

from ..fileio.downloads import DownloadError, download, sha256
from ..fileio.safe_loading import CheckpointError, read_checkpoint
from ..fileio.urls import identify, is_url, redact

# Hosts whose file names end in the first digits of the file's SHA-256: mmpretrain's zoo and torchvision's.
_HASHING_HOSTS = ('download.openmmlab.com', 'download.pytorch.org')


def published_hash(url: str, in_zoo: bool) -> str | None:
    """Return the first eight digits of the SHA-256 that the publisher of a file wrote into its name.

    Args:
        url: URL of the file.
        in_zoo: Whether it is the URL that mmpretrain's model zoo, or an index registered there, has for the model. All its
            names end so. Other names may end in a date or version that looks like a hash.

    Returns:
        The digits, or None if the name has none that can be relied on.
    """
    parts = urlsplit(url)
    found = re.search(r'-([0-9a-f]{8})\.pth$', parts.path)
    return found[1] if found and (in_zoo or parts.hostname in _HASHING_HOSTS) else None


@dataclass(frozen=True)
class WeightsFile:
    """A checkpoint at a path, or at a URL and in the cache of torch (``$TORCH_HOME/hub/checkpoints``).

    In the cache its name has a hash of the URL: URLs with equal file names are different files. A file that was placed
    there under the plain name, by hand or by mmengine, is used too: if it has the published hash, or if there is none and
    the URL cannot be downloaded.

    Attributes:
        location: The path or URL.
        published_hash: First digits of the file's SHA-256. Default: None, not known.
    """

    location: str = field(repr=False)
    published_hash: str | None = None

    @property
    def shown(self) -> str:
        """The path, or the URL without what is secret."""
        return redact(self.location) if self.is_url else self.location

    @property
    def is_url(self) -> bool:
        """Whether the file is at a URL."""
        return is_url(self.location)

    @property
    def cached(self) -> Path:
        """Where the file of a URL is kept on this machine."""
        digest = hashlib.sha256(identify(self.location).encode()).hexdigest()[:8]
        plain = self.plain.name
        suffix = PurePosixPath(plain).suffix
        return self.plain.with_name(f'{plain.removesuffix(suffix)[:100]}-{digest}{suffix}')

    @property
    def plain(self) -> Path:
        """Where ``torch.hub`` and mmengine would keep the file of a URL."""
        name = PurePosixPath(urlsplit(self.location).path).name
        return Path(torch.hub.get_dir()) / 'checkpoints' / (name or 'checkpoint')

    @property
    def path(self) -> Path:
        """The file on this machine, which exists after :meth:`fetch`."""
        if not self.is_url:
            return Path(self.location)
        return self.plain if self.plain.is_file() and not self.cached.is_file() else self.cached

    @property
    def is_local(self) -> bool:
        """Whether the file is on this machine, and is known to be the file of the URL."""
        if not self.path.is_file():
            return False
        return not self.is_url or self.path == self.cached or self._has_published_hash(self.plain)

    def fetch(self, stop: Event | None = None) -> None:
        """Make :attr:`path` exist on this machine.

        Args:
            stop: Ends a download when it is set. Default: None.

        Raises:
            DownloadError: There is no such file, it cannot be downloaded, or it is not the one that was published.
            CheckpointError: What was downloaded is not a checkpoint.
        """
        if not self.is_url:
            if not self.path.is_file():
                raise DownloadError('there is no such file')
        elif not self.cached.is_file():
            if not self.is_local:
                self._download(stop)
        elif self.published_hash is not None and not self._has_published_hash(self.cached):
            raise DownloadError(f'{self.cached} is damaged: {self._wrong_hash(self.cached)}. Delete it to download again')

    def _download(self, stop: Event | None) -> None:
        """Download into the cache; without a connection, fall back on a file that was placed there by hand."""
        try:
            download(self.location, self.cached, self._check, stop)
        except (DownloadError, CheckpointError) as error:
            if self.cached.is_file():  # Another machine has put it into a cache that both share.
                return
            if not self.plain.is_file():
                advice = f'Without a connection, copy the file to {self.cached}, or give its path instead of the URL'
                raise type(error)(f'{error}. {advice}') from None
            if self.published_hash is not None:
                raise type(error)(f'{error}. {self.plain} is not this file: {self._wrong_hash(self.plain)}') from None
            print_log(
                f'{self.shown} could not be downloaded ({error}). Using {self.plain}, which has the same name; whether it '
                'is the same file is not known.',
                logger='current',
                level=logging.WARNING,
            )

    def _check(self, path: Path) -> None:
        """Raise if a download is not the published file, or not a checkpoint at all."""
        read_checkpoint(path, 'what the server sent')
        if not self._has_published_hash(path) and self.published_hash is not None:
            raise DownloadError(
                f'what the server sent is not the published file: {self._wrong_hash(path)}. If you trust it, download it '
                'yourself and give its path'
            )

    def _has_published_hash(self, path: Path) -> bool:
        return self.published_hash is not None and sha256(path).startswith(self.published_hash)

    def _wrong_hash(self, path: Path) -> str:
        return f'its SHA-256 starts with {sha256(path)[:8]}, the published one with {self.published_hash}'
