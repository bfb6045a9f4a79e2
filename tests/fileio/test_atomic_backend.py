import pytest
from mmengine.fileio import get_file_backend

import serkd_mm.fileio.atomic_backend as module


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
