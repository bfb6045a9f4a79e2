"""Identity of processes: a process id is used again after a while, and on other machines and in other containers."""

import os
from functools import cache
from pathlib import Path


@cache
def this_machine() -> str | None:
    """Return a name of the process ids of this machine since it was started; None where there is no ``/proc``.

    Machines and containers may share their host name.
    """
    try:
        boot = Path('/proc/sys/kernel/random/boot_id').read_text(encoding='ascii').strip()
        return f'{boot} {os.readlink("/proc/self/ns/pid")}'
    except OSError:
        return None


def this_process() -> str | None:
    """Return a name of this process on this machine; None where there is no ``/proc``."""
    return _identity(os.getpid())


def process_is_alive(pid: int, identity: str | None) -> bool:
    """Whether a process of this machine runs.

    Args:
        pid: The process id.
        identity: What :func:`this_process` returned in that process; another process may have the same id later.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # It runs, and is another user's.
    current = _identity(pid)
    return current is None or current == identity


def _identity(pid: int) -> str | None:
    """Return the process id and the start time; None if they cannot be read. A zombie has no identity of its own."""
    try:
        stat = Path(f'/proc/{pid}/stat').read_text(encoding='utf-8', errors='replace')
    except OSError:
        return None
    state, *fields = stat.rpartition(')')[2].split()  # The name before may hold any character.
    return 'ended' if state in ('Z', 'X') else f'{pid} {fields[18]}'
