"""The lock of a work folder, held by real processes."""

import multiprocessing
import os
import signal
import time

import pytest

from serkd_mm.fileio import WorkDirError, processes, run_lock
from serkd_mm.fileio.run_lock import RunLock

FORK = multiprocessing.get_context('fork')


def hold(path, machine, commands, answers):
    """Hold the lock, then answer 'check' with None or the error's message."""
    if machine is not None:  # Stands for another machine, whose processes are not known here.
        run_lock.this_machine = lambda: machine
    lock = RunLock(path, interval=0.1)
    lock.acquire(print)
    answers.put('held')
    while commands.get() == 'check':
        try:
            lock.check()
            answers.put(None)
        except WorkDirError as error:
            answers.put(str(error))
    lock.release()


class Process:
    """A process that holds the lock."""

    def __init__(self, path, machine=None):
        self.commands, self.answers = FORK.Queue(), FORK.Queue()
        self.process = FORK.Process(target=hold, args=(path, machine, self.commands, self.answers), daemon=True)
        self.process.start()
        assert self.answers.get(timeout=30) == 'held'
        self.pid = self.process.pid
        self.identity = processes._identity(self.pid)

    def check(self):
        self.commands.put('check')
        return self.answers.get(timeout=30)

    def end(self):
        self.commands.put('end')
        self.process.join(timeout=30)


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'work' / 'run.lock'


def quick(path):
    return RunLock(path, interval=0.1, stale_after=0.5)


def acquire(path):
    """Acquire the lock; return it and what was logged."""
    lock, messages = quick(path), []
    lock.acquire(messages.append)
    return lock, messages


def test_second_process_is_refused_while_the_first_lives(path):
    first = Process(path)
    with pytest.raises(WorkDirError, match=f'in use by process {first.pid} on .*--work-dir'):
        quick(path).acquire(print)
    with pytest.raises(WorkDirError, match=f'process {first.pid} '):
        quick(path).refuse_if_held()
    os.kill(first.pid, signal.SIGSTOP)  # A suspended process of this machine lives.
    time.sleep(0.6)
    with pytest.raises(WorkDirError, match=f'process {first.pid} '):
        quick(path).acquire(print)
    os.kill(first.pid, signal.SIGCONT)
    first.end()
    assert not list(path.parent.iterdir())
    lock, messages = acquire(path)
    assert messages == []
    lock.release()


def test_lock_of_a_killed_process_is_taken_over_at_once(path):
    first = Process(path)
    os.kill(first.pid, signal.SIGKILL)
    while processes.process_is_alive(first.pid, first.identity):  # It stays a zombie: nothing waits for it.
        time.sleep(0.01)
    begin = time.monotonic()
    lock = RunLock(path)  # With the default settings: not by waiting.
    messages = []
    lock.acquire(messages.append)
    assert time.monotonic() - begin < 1
    (message,) = messages
    assert f'process {first.pid} ' in message
    lock.check()
    lock.release()


def test_lock_of_another_machine_is_taken_over_when_its_heartbeat_stops(path):
    first = Process(path, machine='another')
    with pytest.raises(WorkDirError, match=f'process {first.pid} '):
        quick(path).acquire(print)
    os.utime(path, (0, 0))  # Clocks differ: an old heartbeat is no reason to take over.
    with pytest.raises(WorkDirError, match=f'process {first.pid} '):
        quick(path).acquire(print)
    assert first.check() is None

    os.kill(first.pid, signal.SIGSTOP)
    os.utime(path, (2**33, 2**33))  # A late one is no reason to wait.
    lock, messages = acquire(path)
    assert len(messages) == 2
    assert 'Waiting' in messages[0]
    assert 'taken over' in messages[1]
    os.kill(first.pid, signal.SIGCONT)
    assert 'this process was suspended' in first.check()
    first.end()
    lock.check()  # The first process has not released the lock of the second.
    lock.release()


def test_one_of_many_processes_takes_a_lock_over(path):
    first = Process(path)
    os.kill(first.pid, signal.SIGKILL)
    first.process.join()
    start, outcomes = FORK.Barrier(8), FORK.Queue()

    def contend():
        lock = quick(path)
        start.wait()
        try:
            lock.acquire(print)
            outcomes.put('held')
            time.sleep(2)
        except WorkDirError:
            outcomes.put('refused')

    contenders = [FORK.Process(target=contend) for _ in range(8)]
    for contender in contenders:
        contender.start()
    for contender in contenders:
        contender.join()
    assert sorted(outcomes.get() for _ in contenders) == ['held', *['refused'] * 7]


def test_process_id_that_is_used_again_is_another_process():
    assert processes.process_is_alive(os.getppid(), processes._identity(os.getppid()))
    assert not processes.process_is_alive(os.getppid(), f'{os.getppid()} 1')


def test_second_run_of_one_process_takes_the_lock_of_a_failed_one_over(path):
    failed, _ = acquire(path)
    lock, messages = acquire(path)
    assert len(messages) == 1
    failed.release()
    lock.check()
    lock.release()
    assert not path.exists()


def test_deleted_lock_is_created_by_the_next_check_only(path):
    lock, _ = acquire(path)
    path.unlink()
    path.parent.rmdir()
    time.sleep(0.3)
    assert not path.parent.exists()
    lock.check()
    assert path.exists()
    lock.release()


@pytest.mark.parametrize('content', ['{"pid": 1', '[]'])
def test_unreadable_lock_is_taken_over_after_a_while(content, path):
    path.parent.mkdir()
    path.write_text(content)
    lock, _ = acquire(path)
    lock.check()
    lock.release()


def test_interrupted_takeover_is_repeated(path):
    first = Process(path)
    os.kill(first.pid, signal.SIGKILL)
    first.process.join()
    os.link(path, path.with_name('.run.lock.claim'))  # The process that took over was killed too.
    lock, _ = acquire(path)
    lock.release()
    assert not list(path.parent.iterdir())


def test_file_system_without_hard_links(path, monkeypatch):
    def link(*_):
        raise PermissionError

    monkeypatch.setattr(run_lock.os, 'link', link)
    first = Process(path)
    with pytest.raises(WorkDirError, match=f'process {first.pid} '):
        quick(path).acquire(print)
    os.kill(first.pid, signal.SIGKILL)
    first.process.join()
    lock, _ = acquire(path)
    lock.release()


@pytest.mark.parametrize('machine', [None, 'this one'], ids=['without /proc', 'with /proc'])
def test_run_of_the_same_process_that_ended_by_an_error_is_taken_over(machine, path, monkeypatch):
    monkeypatch.setattr(run_lock, 'this_machine', lambda: machine)
    monkeypatch.setattr(run_lock, 'this_process', lambda: machine and 'this process')
    _first, _ = acquire(path)  # Never released: it goes on beating until it sees the next one.
    second, messages = acquire(path)
    assert 'taken over' in messages[0]
    second.check()
    second.release()
    assert not path.exists()
