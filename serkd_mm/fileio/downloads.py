"""Download a file completely or not at all, from servers that may stall, truncate, or answer with a web page."""

import base64
import contextlib
import glob
import hashlib
import http.client
import netrc
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from mmengine.logging import print_log

from ..errors import UserError
from .urls import redact, split_user

_CHUNK = 1 << 20
_LEAST_BYTES_PER_SECOND = 1024
_LOG_SECONDS = 60
_ABANDONED_SECONDS = 3600


class DownloadError(UserError, OSError):
    """A file could not be downloaded. The message has the reason, and no part of the URL that is secret."""


def timeout_seconds() -> float:
    """Seconds to wait for a server: the environment variable ``SERKD_MM_DOWNLOAD_TIMEOUT``. Default: 30.

    Raises:
        DownloadError: The variable is not a positive number.
    """
    setting = os.environ.get('SERKD_MM_DOWNLOAD_TIMEOUT', '30')
    try:
        seconds = float(setting)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float('inf'):
        raise DownloadError(f'SERKD_MM_DOWNLOAD_TIMEOUT={setting!r} must be a positive number of seconds')
    return seconds


def download(url: str, target: Path, check: Callable[[Path], None], stop: Event | None = None) -> None:
    """Download a file under a temporary name of this process, check it, and rename it.

    Several processes and machines may do this at once for the same target. User name and password are those of the URL, or
    those that ``~/.netrc`` has for its host.

    Args:
        url: Where the file is: http, https, ftp or file.
        target: Where it belongs.
        check: Called with the temporary path when the file is complete; what it raises rejects the file.
        stop: Ends the download when it is set. Default: None.

    Raises:
        DownloadError: The server cannot be reached, refuses, sends less than it announced, or sends nothing for
            :func:`timeout_seconds`. Nothing is left behind.
    """
    partial = target.with_name(f'.{target.name}.{uuid.uuid4().hex}.partial')
    try:
        with _reported_errors():
            target.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(target)
            _receive(url, partial, stop or Event())
        check(partial)
        with _reported_errors():
            partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def _reported_errors() -> Iterator[None]:
    """Turn what fails in a transfer into a :class:`DownloadError`, not chained: the cause may quote the URL."""
    try:
        yield
    except DownloadError:
        raise
    except HTTPError as error:
        hint = '; put user name and password into ~/.netrc' if error.code in (401, 403) else ''
        raise DownloadError(redact(f'the server answers {error.code} {error.reason}{hint}')) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, 'reason', None) or error  # URLError wraps the error of the socket.
        kind = f'{type(reason).__name__}: ' if isinstance(reason, Exception) else ''
        raise DownloadError(redact(f'{kind}{reason}')) from None


def _receive(url: str, path: Path, stop: Event) -> None:
    """Write what the server sends to a file, and compare its length with the announced one."""
    seconds = timeout_seconds()
    print_log(f'Downloading {redact(url)}', logger='current')
    with urlopen(_request(url), timeout=seconds) as response, path.open('wb') as file:
        length = response.headers.get('Content-Length')
        length = int(length) if length and length.isdigit() else None
        received, pace = 0, _Pace(seconds)
        while length is None or received < length:
            # At most one system call each: a server that sends a byte now and then must not keep us waiting.
            chunk = response.read1(_CHUNK)
            if not chunk:
                break
            if stop.is_set():
                raise DownloadError('the training ended')
            file.write(chunk)
            received += len(chunk)
            pace.check(received, length)
    if length is not None and received != length:
        raise DownloadError(f'the server announced {length} bytes, but sent {received}')


def _request(url: str) -> Request:
    """The request, with the password in a header that is not sent to other servers."""
    url, user = split_user(url)
    parts = urlsplit(url)
    request = Request(url, headers={'User-Agent': 'serkd_mm'})
    if parts.scheme in ('http', 'https') and (user := user or _netrc_user(parts.hostname or '')):
        token = base64.b64encode(':'.join(user).encode()).decode()
        request.add_unredirected_header('Authorization', f'Basic {token}')
    return request


def _netrc_user(host: str) -> tuple[str, str] | None:
    """User name and password of a host in the file ``$NETRC`` or ``~/.netrc``."""
    path = Path(os.environ.get('NETRC', '~/.netrc')).expanduser()
    try:
        entry = netrc.netrc(path).hosts.get(host) if path.is_file() else None
    except netrc.NetrcParseError as error:
        raise DownloadError(f'{path} cannot be read: {error.msg} (line {error.lineno})') from None
    return entry and (entry[0], entry[2] or '')


class _Pace:
    """Log the progress, and raise when a server sends next to nothing."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.since = self.logged = time.monotonic()
        self.before = 0

    def check(self, received: int, length: int | None) -> None:
        now = time.monotonic()
        if now - self.since > self.seconds:
            if received - self.before < _LEAST_BYTES_PER_SECOND * self.seconds:
                raise DownloadError(f'the server sent only {received - self.before} bytes in {now - self.since:.0f} seconds')
            self.since, self.before = now, received
        if now - self.logged > _LOG_SECONDS:
            print_log(f'Downloaded {_megabytes(received)} of {_megabytes(length)}', logger='current')
            self.logged = now


def _remove_abandoned(target: Path) -> None:
    """Remove what killed processes left of earlier downloads of a file; one that goes on is written to all the time."""
    for path in target.parent.glob(f'.{glob.escape(target.name)}.*.partial'):
        with contextlib.suppress(OSError):  # Another process removed it first.
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()


def _megabytes(size: int | None) -> str:
    return 'of unknown size' if size is None else f'{size / 1e6:.1f} MB'
