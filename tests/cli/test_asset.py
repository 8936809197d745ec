"""`nativelink asset` against a server."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.cli.farm import CommandLine, Farm, farm

DATA = b"contents of the web"
SRI = "checksum.sri=sha256-" + base64.b64encode(hashlib.sha256(DATA).digest()).decode()
DIGEST = f"{hashlib.sha256(DATA).hexdigest()}/{len(DATA)}"
CONFIG = """{
  stores: [{ name: "CAS", memory: { eviction_policy: { max_bytes: "64mb" } } },
           { name: "ASSETS", memory: { eviction_policy: { max_bytes: "8mb" } } }],
  servers: [{
    listener: { http: { socket_address: "127.0.0.1:0" } },
    services: {
      cas: [{ instance_name: "main", cas_store: "CAS" }],
      bytestream: [{ instance_name: "main", cas_store: "CAS" }],
      capabilities: [{ instance_name: "main" }],
      fetch: [{ instance_name: "main", fetch_store: "ASSETS", downloads: {
        allowed_hosts: ["127.0.0.1:*"], allowed_networks: ["127.0.0.1"],
        insecure_allow_http: true,
      } }],
      push: [{ instance_name: "main", push_store: "ASSETS" }],
    },
  }],
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with farm(tmp_path_factory.mktemp("assets"), CONFIG) as running:
        yield running


@pytest.fixture
def nativelink(server: Farm, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capfd, server.url)


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """The address of a site with one page, `/x`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/x" else 404)
            self.send_header("Content-Length", str(len(DATA) if self.path == "/x" else 0))
            self.end_headers()
            if self.path == "/x":
                self.wfile.write(DATA)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as site:
        thread = threading.Thread(target=site.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{site.server_address[1]}"
        site.shutdown()
        thread.join()


def test_what_was_pushed_is_found(nativelink: CommandLine, tmp_path: Path) -> None:
    file, copy = tmp_path / "file", tmp_path / "copy"
    file.write_bytes(DATA)

    pushed = nativelink("asset", "push", file, "urn:x", "urn:y", "-q", SRI, "-q", "a=1")
    found = nativelink("asset", "fetch", "urn:z", "urn:y", "-q", "a=1", "-q", SRI, "-o", copy)

    assert pushed == (0, f"{DIGEST}  urn:x\n{DIGEST}  urn:y\n", "")
    assert found == (0, f"{DIGEST}  urn:y\n", "")
    assert copy.read_bytes() == DATA


def test_a_directory_is_found_as_one(nativelink: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "file").write_bytes(DATA)

    pushed = json.loads(nativelink("asset", "push", "--json", tmp_path / "in", "urn:d").out)
    found = nativelink("asset", "fetch", "-d", "--json", "urn:d", "-o", tmp_path / "out")

    assert json.loads(found.out) == {
        "uri": "urn:d",
        "kind": "directory",
        "digest": pushed["digest"],
        "qualifiers": [],
        "path": str(tmp_path / "out"),
    }
    assert (tmp_path / "out" / "sub" / "file").read_bytes() == DATA
    assert nativelink("asset", "fetch", "urn:d").code == 2


def test_what_nobody_pushed_is_downloaded(nativelink: CommandLine, web: str) -> None:
    found = nativelink("asset", "fetch", f"{web}/x", "-q", SRI)

    assert found == (0, f"{DIGEST}  {web}/x\n", "")


def test_an_end_is_shown(nativelink: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(DATA)
    nativelink("asset", "push", file, "urn:e", "--expire-in", "3600")

    found = json.loads(nativelink("asset", "fetch", "urn:e", "--json").out)

    assert found["expires_at"].endswith("Z")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["urn:unknown"], "no blob is known here for 'urn:unknown'"),
        (["-d", "urn:unknown"], "no directory or archive is known here"),
        (["urn:x", "-q", "nothing"], "NAME=VALUE is expected"),
        (["https://example.org/x"], "is not in this server's allowed_hosts"),
    ],
)
def test_what_cannot_be_had_is_one_line(
    nativelink: CommandLine, arguments: list[str], said: str
) -> None:
    answer = nativelink("asset", "fetch", *arguments)

    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err
    assert answer.err.count("\n") == 1


def test_a_page_that_is_not_there_is_said_to_be_missing(nativelink: CommandLine, web: str) -> None:
    answer = nativelink("asset", "fetch", f"{web}/absent")

    assert answer == (2, "", f"nativelink: {web}/absent: the origin answered 404 Not Found\n")
