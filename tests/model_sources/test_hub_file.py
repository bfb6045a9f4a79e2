"""Files of Hugging Face's hub, fetched with the hub's own client from a server that answers as the hub does."""

import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from huggingface_hub import constants

from serkd_mm.fileio.downloads import DownloadError
from serkd_mm.model_sources import HubFile

CONTENT = b'weights' * 1000
COMMIT = '0123456789' * 4


class _Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.server.requests.append(self.path)
        repository = '/'.join(self.path.split('/')[1:3])
        if repository == 'a/gated':
            return self._refuse(403, 'GatedRepo')
        if repository != 'a/open':
            return self._refuse(404, 'RepoNotFound')
        if not self.path.endswith('/pytorch_model.bin'):
            return self._refuse(404, 'EntryNotFound')
        self.send_response(200)
        self.send_header('ETag', f'"{hashlib.sha256(CONTENT).hexdigest()}"')
        self.send_header('X-Repo-Commit', COMMIT)
        self.send_header('Content-Length', str(len(CONTENT)))
        self.end_headers()
        if self.command == 'GET':
            self.wfile.write(CONTENT)
        return None

    do_GET = do_HEAD

    def _refuse(self, code: int, error: str) -> None:
        self.send_response(code)
        self.send_header('X-Error-Code', error)
        self.end_headers()

    def log_message(self, *_arguments) -> None:
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server that answers as the hub, and an empty cache."""
    with ThreadingHTTPServer(('127.0.0.1', 0), _Hub) as server:
        server.requests = []
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f'http://127.0.0.1:{server.server_port}'
        monkeypatch.setattr(constants, 'ENDPOINT', url)
        monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', url + '/{repo_id}/resolve/{revision}/{filename}')
        monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
        monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
        yield server
        server.shutdown()


def test_the_first_file_that_exists_is_fetched_once_into_the_hub_s_cache(hub, tmp_path):
    file = HubFile('a/open', ('model.safetensors', 'pytorch_model.bin'))
    assert not file.is_local
    file.fetch()
    assert file.is_local
    assert file.shown == 'a/open/pytorch_model.bin'
    assert file.path.read_bytes() == CONTENT
    assert file.path.is_relative_to(tmp_path / 'hub' / 'models--a--open' / 'snapshots' / COMMIT)
    hub.requests.clear()
    file.fetch()
    assert hub.requests == []
    file.path.resolve().write_bytes(CONTENT[1:])
    with pytest.raises(DownloadError, match=r'is damaged: its SHA-256 is not its name\. Delete it'):
        file.fetch()


@pytest.mark.parametrize(
    ('repository', 'names', 'message'),
    [
        (
            'a/gated',
            ['model.safetensors'],
            'accept the terms at https://huggingface.co/a/gated, and log in with `hf auth login`',
        ),
        ('a/none', ['x.bin'], 'the hub has no repository a/none, or it is private: log in with `hf auth login`'),
        ('a/open', ['model.safetensors', 'x.bin'], 'the repository has no file model.safetensors or x.bin'),
    ],
)
def test_what_the_hub_refuses(hub, repository, names, message):
    with pytest.raises(DownloadError) as error:
        HubFile(repository, tuple(names)).fetch()
    assert message in str(error.value)


@pytest.mark.parametrize('offline', [True, False])
def test_a_hub_that_cannot_be_reached_is_named_with_the_setting_that_saves_the_attempts(offline, hub, monkeypatch):
    hub.shutdown()
    hub.server_close()  # Connections are refused.
    monkeypatch.setattr('time.sleep', lambda _: None)  # The client waits between its attempts.
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', offline)
    with pytest.raises(DownloadError, match=r'cannot be reached.*`hf download a/open`') as error:
        HubFile('a/open', ('config.json',)).fetch()
    assert ('HF_HUB_OFFLINE is set' in str(error.value)) == offline
    assert ('HF_HUB_OFFLINE=1 saves the attempts to connect' in str(error.value)) != offline
