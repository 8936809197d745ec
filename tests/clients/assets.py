"""A workspace that downloads what it builds with, from an origin of our own, through our server."""

from __future__ import annotations

import hashlib
import io
import json
import os
import ssl
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.clients.certificates import KeyPair
from tests.clients.programs import running, wait_until_ready
from tests.ports import free_port

__all__ = [
    "INSTANCE",
    "AssetServer",
    "Origin",
    "archive",
    "make_workspace",
    "open_origin",
    "open_server",
]

INSTANCE = "team/assets"

_WORKSPACE = """\
workspace(name = "assets")
load("@bazel_tools//tools/build_defs/repo:http.bzl", "http_archive", "http_file")
http_archive(
    name = "archive",
    urls = {archive_urls},
    sha256 = "{archive_sha256}",
    strip_prefix = "top",
    build_file_content = "exports_files(['greeting.txt'])",
)
http_file(name = "file", urls = {file_urls}, sha256 = "{file_sha256}", netrc = "{netrc}")
"""
_BUILD = """\
genrule(
    name = "both",
    srcs = ["@archive//:greeting.txt", "@file//file"],
    outs = ["both.txt"],
    cmd = "cat $(SRCS) > $@",
)
"""


@dataclass
class Origin:
    """A web site that can be stopped.

    Attributes:
        port: of 127.0.0.1.
        scheme: `http` or `https`.
        pages: what it has, by path.
        asked: paths of all requests, with their Authorization.
    """

    port: int
    scheme: str
    pages: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def url(self, path: str) -> str:
        """Where a page is."""
        return f"{self.scheme}://127.0.0.1:{self.port}{path}"


@contextmanager
def open_origin(certificate: KeyPair | None = None) -> Iterator[Origin]:
    """A web site, until the end of the block; https if it has a certificate."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            origin.asked.append((self.path, self.headers["Authorization"]))
            page = origin.pages.get(self.path)
            self.send_response(404 if page is None else 200)
            self.send_header("Content-Length", str(len(page or b"")))
            self.end_headers()
            self.wfile.write(page or b"")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        origin = Origin(server.server_address[1], "https" if certificate else "http")
        if certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate.certificate, certificate.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield origin
        finally:
            server.shutdown()
            thread.join()


def archive(text: str) -> bytes:
    """A tar.gz with one file, `top/greeting.txt`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        info = tarfile.TarInfo("top/greeting.txt")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text.encode()))
    return packed.getvalue()


def make_workspace(
    folder: Path,
    archive_urls: list[str],
    file_urls: list[str],
    contents: tuple[bytes, bytes | None],
) -> Path:
    """Bazel's workspace, whose checksums are those of `contents`; None is for no checksum."""
    folder.mkdir(parents=True, exist_ok=True)
    first, second = ("" if each is None else hashlib.sha256(each).hexdigest() for each in contents)
    netrc = folder / "netrc"
    netrc.write_text("machine 127.0.0.1\nlogin me\npassword secret\n")
    (folder / "WORKSPACE").write_text(
        _WORKSPACE.format(
            archive_urls=json.dumps(archive_urls),
            archive_sha256=first,
            file_urls=json.dumps(file_urls),
            file_sha256=second,
            netrc=netrc,
        )
    )
    (folder / "BUILD").write_text(_BUILD)
    return folder


@dataclass(frozen=True)
class AssetServer:
    """A cache that downloads.

    Attributes:
        port: of 127.0.0.1.
        log: what it says.
    """

    port: int
    log: Path

    def flags(self) -> list[str]:
        """What a user of Bazel would put into .bazelrc."""
        here = f"grpc://127.0.0.1:{self.port}"
        return [
            f"--remote_cache={here}",
            f"--experimental_remote_downloader={here}",
            f"--remote_instance_name={INSTANCE}",
            "--remote_timeout=120",
            # What was downloaded once would be found there by every output base.
            "--repository_cache=",
        ]


@contextmanager
def open_server(folder: Path, authority: Path) -> Iterator[AssetServer]:
    """A server that trusts the origins of an authority."""
    port = free_port()
    stores = [
        {
            "name": name,
            "filesystem": {
                "content_path": str(folder / name / "content"),
                "temp_path": str(folder / name / "temp"),
                "eviction_policy": {"max_bytes": "1gb"},
            },
        }
        for name in ("CAS", "AC", "ASSETS")
    ]
    downloads = {
        "allowed_hosts": ["127.0.0.1:*"],
        "allowed_networks": ["127.0.0.0/8"],
        "insecure_allow_http": True,
        "ca_file": str(authority),
        "retry": {"max_retries": 1, "delay": 0.01},
    }
    instance = {"instance_name": INSTANCE}
    services = {
        "cas": [{**instance, "cas_store": "CAS"}],
        "ac": [{**instance, "ac_store": "AC"}],
        "bytestream": [{**instance, "cas_store": "CAS"}],
        "capabilities": [instance],
        "fetch": [{**instance, "fetch_store": "ASSETS", "downloads": downloads}],
        "push": [{**instance, "push_store": "ASSETS"}],
    }
    listener = {"http": {"socket_address": f"127.0.0.1:{port}"}}
    folder.mkdir(parents=True, exist_ok=True)
    file, log = folder / "config.json5", folder / "log"
    file.write_text(
        json.dumps(
            {"stores": stores, "servers": [{"listener": listener, "services": services}]}, indent=2
        )
    )
    command = [Path(sys.executable).parent / "nativelink", file]
    with running(command, log, environment={"HOME": os.environ.get("HOME", "/")}) as process:
        wait_until_ready(f"127.0.0.1:{port}", log, process=process)
        yield AssetServer(port, log)
