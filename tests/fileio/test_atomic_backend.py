import multiprocessing
import resource

import pytest
from builders import in_process
from mmengine.fileio import get_file_backend

import serkd_mm.fileio.atomic_backend as module
from serkd_mm.fileio import WriteError


class Killed(BaseException):
    """Stands for a kill of the process."""


def test_file_is_unchanged_until_the_new_content_is_complete(tmp_path, monkeypatch):
    backend = get_file_backend(backend_args={'backend': 'atomic'})
    backend.put(b'first', tmp_path / 'folder' / 'file')

    def killed(_):
        raise Killed

    monkeypatch.setattr(module.os, 'fsync', killed)
    with pytest.raises(Killed):
        backend.put(b'second', tmp_path / 'folder' / 'file')
    assert backend.get(tmp_path / 'folder' / 'file') == b'first'
    monkeypatch.undo()
    backend.put_text('third', tmp_path / 'folder' / 'file')
    assert [path.name for path in (tmp_path / 'folder').iterdir()] == ['file']
    assert backend.get_text(tmp_path / 'folder' / 'file') == 'third'


def test_failed_write_names_the_file_and_leaves_nothing(tmp_path):
    backend, file = get_file_backend(backend_args={'backend': 'atomic'}), tmp_path / 'file'
    backend.put(b'first', file)

    def exceed_the_limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(WriteError, match=rf'^{file} \(0\.0 MiB\) could not be written: File too large'):
            backend.put(bytes(2000), file)

    assert in_process(exceed_the_limit) == 0
    assert [path.name for path in tmp_path.iterdir()] == ['file']
    assert backend.get(file) == b'first'
    (tmp_path / 'no folder').touch()
    with pytest.raises(WriteError, match=r'no folder/file .* could not be written: '):
        backend.put(b'', tmp_path / 'no folder' / 'file')


def test_many_writers_of_one_file_leave_the_complete_content_of_one(tmp_path):
    backend, file = get_file_backend(backend_args={'backend': 'atomic'}), tmp_path / 'file'
    contents = [bytes([number]) * (200_000 + number) for number in range(4)]

    def write(content):
        for _ in range(20):
            backend.put(content, file)

    context = multiprocessing.get_context('fork')
    writers = [context.Process(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert not file.exists() or file.read_bytes() in contents
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert [path.name for path in tmp_path.iterdir()] == ['file']
