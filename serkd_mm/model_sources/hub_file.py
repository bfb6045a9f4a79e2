"""A file of a repository of Hugging Face's hub, kept in the hub's own cache."""

import re
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from ..fileio.downloads import DownloadError, sha256
from ..fileio.urls import redact
from .extras import import_optional


@dataclass(frozen=True)
class HubFile:
    """A file of a repository, with the interface of :class:`WeightsFile`.

    Attributes:
        repository: Name of the repository; ``@`` and a revision may follow.
        names: Names that the file may have, in order of preference.
    """

    repository: str
    names: tuple[str, ...]

    @property
    def shown(self) -> str:
        """Repository and name."""
        name = self.path.name if self.is_local else self.names[0]
        return f'{self.repository}/{name}'

    @property
    def is_url(self) -> bool:
        """Whether the file has to be fetched by one process of each machine: always."""
        return True

    @property
    def path(self) -> Path:
        """The file on this machine, which exists after :meth:`fetch`."""
        return self._cached() or self._folder / self.names[0]

    @property
    def is_local(self) -> bool:
        """Whether the file is in the cache of this machine."""
        return self._cached() is not None

    def fetch(self, stop: Event | None = None) -> None:
        """Make :attr:`path` exist on this machine, in the hub's cache (``$HF_HUB_CACHE``). A cached file is not updated.

        Args:
            stop: Not used: the hub's own client downloads. Default: None.

        Raises:
            DownloadError: There is no such file, it cannot be downloaded, or the cached one is damaged.
        """
        hub = import_optional('huggingface_hub', self.repository)
        errors = hub.errors
        name, revision = self._split()
        if (cached := self._cached()) is not None:
            return _check_hash(cached)
        for filename in self.names:
            try:
                path = Path(hub.hf_hub_download(name, filename, revision=revision))
            except errors.GatedRepoError:
                raise DownloadError(
                    f'access is granted on request: accept the terms at https://huggingface.co/{name}, and log in with '
                    '`hf auth login`'
                ) from None
            except errors.LocalEntryNotFoundError as error:  # No connection, or HF_HUB_OFFLINE is set.
                raise DownloadError(self._offline(error)) from None
            except errors.EntryNotFoundError:
                continue
            except errors.RepositoryNotFoundError:
                raise DownloadError(
                    f'the hub has no repository {name}, or it is private: log in with `hf auth login`'
                ) from None
            except (errors.HfHubHTTPError, errors.HFValidationError, OSError, ValueError) as error:
                raise DownloadError(redact(f'{type(error).__name__}: {str(error).strip().splitlines()[0]}')) from None
            return _check_hash(path)
        raise DownloadError(f'the repository has no file {" or ".join(self.names)}')

    @property
    def _folder(self) -> Path:
        """The folder of the repository in the cache."""
        constants = import_optional('huggingface_hub.constants', self.repository)
        return Path(constants.HF_HUB_CACHE) / f'models--{self._split()[0].replace("/", "--")}'

    def _split(self) -> tuple[str, str | None]:
        """Name and revision of the repository."""
        name, _, revision = self.repository.partition('@')
        return name, revision or None

    def _cached(self) -> Path | None:
        """The file in the cache."""
        hub = import_optional('huggingface_hub', self.repository)
        name, revision = self._split()
        for filename in self.names:
            path = hub.try_to_load_from_cache(name, filename, revision=revision)
            if isinstance(path, str):
                return Path(path)
        return None

    def _offline(self, error: Exception) -> str:
        """The message where the hub cannot be reached and nothing is cached."""
        cause = error.__cause__ or error
        is_set = 'Offline' in type(cause).__name__
        reason = 'HF_HUB_OFFLINE is set' if is_set else type(cause).__name__
        advice = '' if is_set else '. HF_HUB_OFFLINE=1 saves the attempts to connect'
        return (
            f"Hugging Face's hub cannot be reached ({reason}), and the file is not in its cache on this machine. Run "
            f'`hf download {self._split()[0]}` on a machine with a connection and copy the cached folder to '
            f'{self._folder}{advice}'
        )


def _check_hash(path: Path) -> None:
    """Compare a cached file with the SHA-256 that the hub names it by; small files have none."""
    blob = path.resolve()
    if re.fullmatch('[0-9a-f]{64}', blob.name) and sha256(blob) != blob.name:
        raise DownloadError(f'{blob} is damaged: its SHA-256 is not its name. Delete it to download again')
