"""Errors for users: the message says what is wrong and what to do. The tools print it as one line, without a traceback."""

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb

from mmengine.dist import all_gather_object


class UserError(Exception):
    """Base class of the errors whose message is all that a user needs; it names a config key or a file."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with exit code 1 and a line on the standard error at an error that a user can mend.

    That is a :class:`UserError`, an ``OSError``, or mmengine's ``KeyError`` about a type that is not registered.

    ``SERKD_MM_TRACEBACK=1`` in the environment keeps the traceback.
    """
    try:
        yield
    except (UserError, OSError, KeyError) as error:
        if isinstance(error, KeyError) and not _is_unregistered(error):
            raise
        if os.environ.get('SERKD_MM_TRACEBACK', '0') not in ('', '0'):
            raise
        print(f'error: {one_line(error)}', file=sys.stderr, flush=True)
        raise SystemExit(1) from None


def one_line(error: Exception) -> str:
    """Return the message of an error as one line, without what torch and mmengine add in front of it."""
    # torch adds the traceback of a DataLoader worker, and mmengine may add the class that was built.
    message = re.split(rf'\n(?:\w+\.)*{type(error).__name__}: ', str(error))[-1]
    message = re.sub(r'^class `\w+` in [\w/.]+: ', '', ' '.join(message.split()))
    if isinstance(error, OSError) and not isinstance(error, UserError) and error.filename is None:
        file = _open_file(error)  # Write errors name no file.
        return f'{file}: {message}' if file else f'{type(error).__name__}: {message}'
    return message or type(error).__name__


def _is_unregistered(error: KeyError) -> bool:
    """Whether mmengine has not found a type in one of its registries."""
    return re.search(r'is not in the .* registry', str(error)) is not None


def _open_file(error: BaseException) -> str | None:
    """Return the name of the file that was open for writing where the error was raised; None without one."""
    found = None
    for frame, _ in walk_tb(error.__traceback__):
        for value in frame.f_locals.values():
            if isinstance(value, io.IOBase) and isinstance(getattr(value, 'name', None), str):
                found = value.name
    return found


@contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """Raise an error of one rank on all ranks, so that none waits for one that has failed. Every rank must enter.

    A rank without an error of its own raises one of the same class if it is a :class:`UserError`, or else a
    :class:`UserError`, with the message of the first rank that failed.
    """
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    kind = type(failure) if isinstance(failure, UserError) else UserError
    outcomes = all_gather_object(None if failure is None else (kind, one_line(failure)))
    if failure is not None:
        raise failure
    for outcome in outcomes:
        if outcome is not None:
            kind, message = outcome
            raise kind(message)
