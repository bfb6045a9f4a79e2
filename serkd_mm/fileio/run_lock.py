"""A lock file with a heartbeat: one run at a time writes into a work folder, also on file systems that machines share."""

import atexit
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from .processes import process_is_alive, this_machine, this_process
from .work_dir import WorkDirError

_ADVICE = 'Two runs would overwrite the checkpoints of each other: choose another --work-dir'

# Of the locks that this process has made; a forked process inherits them, but has another id.
_own_tokens: set[str] = set()


class _Holder(NamedTuple):
    """What a lock file says, and its heartbeat."""

    record: dict
    heartbeat: tuple[str, int]  # Of the content and the time of the last change: compared, never subtracted.

    def __str__(self) -> str:
        pid, host, started = (self.record.get(name, '?') for name in ('pid', 'host', 'started'))
        return f'process {pid} on {host}, started {started}'

    @property
    def is_alive(self) -> bool | None:
        """Whether the process runs; None if that cannot be known on this machine."""
        return process_is_alive(self.record['pid'], self.record['process']) if self._is_here else None

    @property
    def is_this_process(self) -> bool:
        return self.record.get('pid') == os.getpid() and self.record.get('token') in _own_tokens

    @property
    def _is_here(self) -> bool:
        return self.record.get('machine') is not None and self.record['machine'] == this_machine()


class RunLock:
    """Lock a folder for one process, which shows by a heartbeat that it lives.

    On one machine, a lock whose process has ended is taken over at once. Elsewhere it is taken over if its heartbeat does
    not change for a while. The clocks of two machines are never compared, and creating a hard link is atomic on shared file
    systems too.

    Args:
        path: The lock file.
        interval: Seconds between two heartbeats. Default: 10.
        stale_after: Seconds without a heartbeat, after which a lock is taken over; three intervals of its holder, if that is
            longer. Default: 60.
        advice: Why a second process is refused and what to do instead, for the message. Default: that of a training.
    """

    def __init__(self, path: str | Path, interval: float = 10.0, stale_after: float = 60.0, advice: str = _ADVICE) -> None:
        self.path, self.advice = Path(path), advice
        self.interval, self.stale_after = interval, stale_after
        self._claim = self.path.with_name(f'.{self.path.name}.claim')  # Held while a stale lock is replaced.
        self._record = {
            'host': socket.gethostname(),
            'pid': os.getpid(),
            'started': time.strftime('%Y-%m-%d %H:%M:%S'),
            'interval': interval,
            'machine': this_machine(),
            'process': this_process(),
            'token': uuid.uuid4().hex,
        }
        _own_tokens.add(self._record['token'])
        self._stop = threading.Event()
        self._seen: dict[Path, tuple[tuple[str, int], float]] = {}  # The last heartbeat, and when it was first seen.

    def acquire(self, log: Callable[[str], None]) -> None:
        """Create the lock file, or take over that of a process that has ended; may wait ``stale_after`` seconds.

        Args:
            log: Receives a message for each step that takes time or replaces a file.

        Raises:
            WorkDirError: Another process holds the lock, or the file cannot be written.
        """
        is_waiting = False
        while not self._link(self.path):
            holder = self._read(self.path)
            if holder is None:  # Released since then.
                continue
            self._refuse_living(self.path, holder)
            if self._has_ended(self.path, holder):
                if self._take_over(holder):
                    log(f'{self.path} was left by {holder}, which has ended, and is taken over')
                    break
            elif not is_waiting:
                is_waiting = True
                log(f'{self.path} is of {holder}. Waiting up to {self._patience(holder):.0f} s for its heartbeat')
            time.sleep(min(1.0, self.interval / 5))
        atexit.register(self.release)
        threading.Thread(target=self._beat, name='work_dir lock', daemon=True).start()

    def refuse_if_held(self) -> None:
        """Raise if a living process of this machine holds the lock; does not wait and creates nothing.

        Raises:
            WorkDirError: Another process holds the lock.
        """
        holder = self._read(self.path)
        if holder is not None and holder.is_alive and not holder.is_this_process:
            raise self._in_use(holder)

    def check(self) -> None:
        """Check that this process still holds the lock. A lock file that was deleted is created again.

        Raises:
            WorkDirError: Another process has taken the lock over.
        """
        if not self._is_held():
            raise WorkDirError(
                f'{self.path} was taken over by {self._read(self.path)}, because this process was suspended for longer '
                f'than {self.stale_after:g} s. This run ends, so that two runs do not write into the same folder'
            )

    def release(self) -> None:
        """Remove the lock file if this process holds it."""
        self._stop.set()
        atexit.unregister(self.release)
        holder = self._read(self.path)
        if holder is not None and holder.record == self._record and os.getpid() == self._record['pid']:
            self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(self.interval):
            with suppress(OSError):  # A file system may be away for a while, and the folder may have been removed.
                holder = self._read(self.path)
                if holder is not None and holder.record != self._record:
                    return
                os.utime(self.path)

    def _is_held(self) -> bool:
        holder = self._read(self.path)
        if holder is None:
            return self._link(self.path)
        return holder.record == self._record

    def _refuse_living(self, path: Path, holder: _Holder) -> None:
        """Raise if the holder lives: its process runs on this machine, or its heartbeat has changed while we waited."""
        if holder.is_this_process:
            return
        beats = path in self._seen and self._seen[path][0] != holder.heartbeat
        if holder.is_alive or (holder.is_alive is None and beats):
            raise self._in_use(holder)

    def _in_use(self, holder: _Holder) -> WorkDirError:
        return WorkDirError(
            f'{self.path.parent} is in use by {holder} ({self.path}). {self.advice}, or end that process first '
            f'(kill {holder.record.get("pid")}, on its machine)'
        )

    def _has_ended(self, path: Path, holder: _Holder) -> bool:
        """Whether the process has ended, or its heartbeat has not changed for long enough."""
        if holder.is_this_process or holder.is_alive is not None:
            return holder.is_this_process or not holder.is_alive
        now = time.monotonic()
        heartbeat, since = self._seen.setdefault(path, (holder.heartbeat, now))
        if heartbeat != holder.heartbeat:
            self._seen[path] = (holder.heartbeat, now)
            return False
        return now - since >= self._patience(holder)

    def _patience(self, holder: _Holder) -> float:
        return max(self.stale_after, 3 * holder.record.get('interval', 0))

    def _take_over(self, stale: _Holder) -> bool:
        """Replace a stale lock, unless another process is doing or has done so."""
        if not self._link(self._claim):
            claimer = self._read(self._claim)
            if claimer is not None and self._has_ended(self._claim, claimer):
                self._claim.unlink(missing_ok=True)
            return False
        try:
            holder = self._read(self.path)
            if holder is None or holder.record != stale.record:
                return False
            self._write_temporary().replace(self.path)
            return True
        finally:
            self._claim.unlink(missing_ok=True)

    def _link(self, target: Path) -> bool:
        """Create a file with the record of this process; False if it exists."""
        temporary = self._write_temporary()
        try:
            os.link(temporary, target)
            return True
        except FileExistsError:
            holder = self._read(target)
            return holder is not None and holder.record == self._record  # The answer of a network may be lost.
        except FileNotFoundError:
            return False  # The process that holds the lock has removed the temporary file.
        except OSError:  # A file system without hard links.
            return self._create(target)
        finally:
            temporary.unlink(missing_ok=True)

    def _create(self, target: Path) -> bool:
        """Create a file without a hard link; others may read it before it is complete."""
        try:
            with target.open('x') as file:
                json.dump(self._record, file)
            return True
        except FileExistsError:
            return False

    def _write_temporary(self) -> Path:
        file = self.path.with_name(f'.{self.path.name}.{uuid.uuid4().hex}.partial')
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(self._record))
        except OSError as error:
            raise WorkDirError(f'{self.path} could not be written: {error.strerror}') from error
        return file

    @staticmethod
    def _read(path: Path) -> _Holder | None:
        """Return the holder of a lock; None without a lock file. Opening it makes a network file system ask the server."""
        try:
            with path.open() as file:
                content, changed = file.read(), os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            return None
        try:
            record = json.loads(content)
        except json.JSONDecodeError:
            record = {}  # Being written, or of another program.
        return _Holder(record if isinstance(record, dict) else {}, (content, changed))
