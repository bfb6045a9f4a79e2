"""A server on 127.0.0.1 that answers as real ones do: well, late, half, or with a web page."""

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

PAGE = b'<!DOCTYPE html><html><body>Please log in</body></html>'


class FileServer(ThreadingHTTPServer):
    """Serve ``files`` by path, and the answers of ``answers``, functions of the request's handler."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.ended = Event()

    def url(self, path: str, user: str = '') -> str:
        return f'http://{user}127.0.0.1:{self.server_port}/{path}'

    def serve(self, path: str, content: bytes, answer: Callable | None = None) -> str:
        """Serve a file, by an answer that takes the handler and the content; return its URL."""
        self.files[f'/{path}'] = content
        if answer is not None:
            self.answers[f'/{path}'] = answer
        return self.url(path)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers['Authorization']))
        path = self.path.partition('?')[0]
        content = self.server.files.get(path)
        if content is None:
            self.send_error(404)
        else:
            self.server.answers.get(path, whole)(self, content)

    def log_message(self, *args) -> None:
        pass


@contextmanager
def file_server() -> Iterator[FileServer]:
    """Run a server in a thread."""
    with FileServer() as server:
        thread = Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01))
        thread.start()
        yield server
        server.ended.set()
        server.shutdown()
        thread.join()


def _start(handler, length: int | None, **headers: str) -> None:
    handler.send_response(200)
    if length is not None:
        handler.send_header('Content-Length', str(length))
    for name, value in headers.items():
        handler.send_header(name.replace('_', '-'), value)
    handler.end_headers()


def whole(handler, content: bytes) -> None:
    _start(handler, len(content))
    handler.wfile.write(content)


def truncated(handler, content: bytes) -> None:
    """Announce all of a file and send half of it."""
    _start(handler, len(content))
    handler.wfile.write(content[: len(content) // 2])


def truncated_without_length(handler, content: bytes) -> None:
    """Send half of a file, of a length that was not announced."""
    _start(handler, None)
    handler.wfile.write(content[: len(content) // 2])


def truncated_chunk(handler, content: bytes) -> None:
    """Send half of a chunk."""
    handler.protocol_version = 'HTTP/1.1'
    _start(handler, None, Transfer_Encoding='chunked')
    handler.wfile.write(f'{len(content):x}\r\n'.encode() + content[: len(content) // 2])
    handler.close_connection = True


def page(handler, content: bytes) -> None:
    whole(handler, PAGE)


def login(handler, content: bytes) -> None:
    """Redirect to a page."""
    handler.server.serve('login', PAGE)
    redirect(handler.server.url('login?next=secret'))(handler, content)


def redirect(url: str) -> Callable:
    def answer(handler, content: bytes) -> None:
        handler.send_response(302)
        handler.send_header('Location', url)
        handler.end_headers()

    return answer


def error(code: int) -> Callable:
    return lambda handler, content: handler.send_error(code)


def silent(handler, content: bytes) -> None:
    """Accept the request, and answer nothing."""
    handler.server.ended.wait(30)


def stalled(handler, content: bytes) -> None:
    """Send half of a file, and then nothing."""
    truncated(handler, content)
    handler.wfile.flush()
    handler.server.ended.wait(30)


def dripping(handler, content: bytes) -> None:
    """Send a byte now and then."""
    _start(handler, len(content))
    slowly(content[:300], 1, 0.1, handler)


def slow(handler, content: bytes) -> None:
    """Send a whole file in about eight seconds."""
    _start(handler, len(content))
    slowly(content, -(-len(content) // 40), 0.2, handler)


def slowly(content: bytes, size: int, seconds: float, handler) -> None:
    for start in range(0, len(content), size):
        if handler.server.ended.is_set():
            return
        handler.wfile.write(content[start : start + size])
        handler.wfile.flush()
        time.sleep(seconds)


def private(user: str, password: str) -> Callable:
    """Serve a file to one user."""
    expected = f'Basic {base64.b64encode(f"{user}:{password}".encode()).decode()}'

    def answer(handler, content: bytes) -> None:
        if handler.headers['Authorization'] == expected:
            whole(handler, content)
        else:
            handler.send_error(401)

    return answer
