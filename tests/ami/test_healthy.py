from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ami.boot import healthy
from tests.ports import free_port


class _Server:
    """Answers `/status` with a number."""

    def __init__(self) -> None:
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(outer.status if self.path == "/status" else 404)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
                del format, args

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[_Server]:
    server = _Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NATIVELINK_STATUS_ADDRESS", "NATIVELINK_ADDRESS"):
        monkeypatch.setenv(name, f"127.0.0.1:{free_port()}")


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
@pytest.mark.parametrize("variable", ["NATIVELINK_STATUS_ADDRESS", "NATIVELINK_ADDRESS"])
def test_the_status_is_the_exit_code(
    server: _Server, monkeypatch: pytest.MonkeyPatch, variable: str, status: int, code: int
) -> None:
    monkeypatch.setenv(variable, f"0.0.0.0:{server.port}")
    server.status = status
    assert healthy.main() == code


def test_a_program_that_does_not_listen_is_not_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    assert healthy.main() == 1
    assert capsys.readouterr().err == "nothing listens\n"
