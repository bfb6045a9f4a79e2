"""URLs that hold a password or a token: what of them may be shown, and what identifies the file."""

import re
from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

_USER = re.compile(r'(?<=://)[^/\s\'"]*@')
_QUERY = re.compile(r'(://[^\s\'"?#]*[?#])[^\s\'"]*')
# Parts of a query that grant access, of S3, GCS, Azure, CloudFront and GitLab: they change while the file stays the same.
_ACCESS = re.compile(
    r'x-(amz|goog)-.*|(access_|private_)?token|signature|sig|expires|policy|key-pair-id|awsaccesskeyid|googleaccessid|'
    r's[eprtv]|sk(oid|tid|t|e|s|v)',
    re.IGNORECASE,
)
_originals: dict[str, str] = {}


def is_url(path: str) -> bool:
    """Whether a path is a URL."""
    return '://' in path


def check_url(url: str) -> None:
    """Raise if a URL cannot be split into its parts: then its password cannot be separated from its host.

    Raises:
        ValueError: It cannot be split. The message does not quote it.
    """
    try:
        valid = urlsplit(url).port != 0 and not re.search(r'[\s\'"<>\\]', url)
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(
            'the URL is not valid. Special characters in it, also in a user name or password, must be percent-encoded '
            '(/ is %2F, @ is %40, a space is %20)'
        )


def redact(text: str) -> str:
    """Replace user names, passwords and queries by ``***`` in all URLs of a text."""
    return _QUERY.sub(r'\1***', _USER.sub('***@', text))


def identify(url: str) -> str:
    """Return what identifies the file of a URL: without user, password, and what grants access for a limited time."""
    parts = urlsplit(url)
    query = [(name, value) for name, value in parse_qsl(parts.query, True) if not _ACCESS.fullmatch(name)]
    host = parts.netloc.rpartition('@')[2].lower()
    return parts._replace(netloc=host, query=urlencode(query), fragment='').geturl()


def split_user(url: str) -> tuple[str, tuple[str, str] | None]:
    """Split off user name and password, decoded; None if the URL has none."""
    parts = urlsplit(url)
    if parts.username is None:
        return url, None
    without = parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl()
    return without, (unquote(parts.username), unquote(parts.password or ''))


def conceal(url: str) -> str:
    """Return what stands for a URL in a config that is logged; :func:`reveal` returns the URL, in this process only."""
    try:
        check_url(url)
        shown = redact(url)
    except ValueError:  # No part of it is known to be harmless.
        shown = f'{url.split("://", maxsplit=1)[0]}://***'
    if shown == url:
        return url
    names = [shown, *(f'{shown}{number}' for number in range(2, 2 + len(_originals)))]
    # URLs that differ only in what is hidden get different names.
    name = next(name for name in names if _originals.get(name, url) == url)
    _originals[name] = url
    return name


def reveal(shown: str) -> str:
    """Return the URL that :func:`conceal` replaced; any other text is returned as it is."""
    return _originals.get(shown, shown)


def conceal_teacher(config: MutableMapping[str, Any]) -> None:
    """Conceal the URLs of the checkpoints of teachers and student in the config of a runner, in place.

    mmengine writes the config to its log, to the work folder and into each checkpoint. The model itself reveals the URL.
    Texts at the top level of the config, variables from which the URL may have been made, are redacted too.

    Args:
        config: The config.
    """
    model = config.get('model')
    settings = model if isinstance(model, Mapping) else {}
    teachers = settings.get('teachers')
    several = teachers.values() if isinstance(teachers, Mapping) else ()
    for part in (settings.get('student'), settings.get('teacher'), *several):
        checkpoint = part.get('checkpoint') if isinstance(part, Mapping) else None
        if isinstance(checkpoint, str) and is_url(checkpoint):
            part['checkpoint'] = conceal(checkpoint)
    for name, value in list(config.items()):
        if isinstance(value, str) and name not in ('load_from', 'work_dir'):
            config[name] = redact(value)
