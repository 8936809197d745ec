"""Real Bazel downloads through our server, once; BuildStream keeps its artifacts by it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.assets import (
    INSTANCE,
    AssetServer,
    archive,
    make_workspace,
    open_origin,
    open_server,
)
from tests.clients.bazel import Bazel
from tests.clients.buildstream import BuildStream
from tests.clients.certificates import Certificates
from tests.clients.conftest import debian_bazel
from tests.clients.programs import CLIENT_TESTS

pytestmark = CLIENT_TESTS

ARCHIVE, FILE = archive("hello from the archive\n"), b"and from the file\n"
BOTH = "hello from the archive\nand from the file\n"


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[AssetServer]:
    folder = tmp_path_factory.mktemp("assets") / "server"
    with open_server(folder, certificates.authority) as running:
        yield running


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("assets") / "workspace"


@pytest.fixture(scope="module")
def here(workspace: Path, user_root: Path) -> Iterator[Bazel]:
    workspace.mkdir()
    one = debian_bazel(workspace, user_root, "assets-one")
    yield one
    one.stop()


@pytest.fixture(scope="module")
def there(workspace: Path, user_root: Path) -> Iterator[Bazel]:
    """A colleague, who has nothing yet."""
    two = debian_bazel(workspace, user_root, "assets-two")
    yield two
    two.stop()


def built(bazel: Bazel) -> str:
    return (bazel.output_base / "execroot/assets/bazel-out/k8-fastbuild/bin/both.txt").read_text()


def test_bazel_downloads_through_the_server_and_then_without_the_origin(
    server: AssetServer, workspace: Path, here: Bazel, there: Bazel
) -> None:
    with open_origin() as origin:
        origin.pages = {"/a.tar.gz": ARCHIVE, "/f.txt": FILE}
        make_workspace(
            workspace,
            [origin.url("/gone.tar.gz"), origin.url("/a.tar.gz")],
            [origin.url("/f.txt")],
            (ARCHIVE, FILE),
        )
        here.build(*server.flags())
        assert built(here) == BOTH
        # Credentials of Bazel's netrc file reach the origin that they are for.
        login = "Basic " + base64.b64encode(b"me:secret").decode()
        assert sorted(origin.asked, key=str) == [
            ("/a.tar.gz", None),
            ("/f.txt", login),
            ("/gone.tar.gz", None),
        ]

    # There is no origin any more.
    there.build(*server.flags())
    assert built(there) == BOTH


def test_contents_with_another_checksum_are_named_in_the_error(
    server: AssetServer, workspace: Path, here: Bazel
) -> None:
    with open_origin() as origin:
        origin.pages = {"/a.tar.gz": ARCHIVE, "/f.txt": b"something else\n"}
        make_workspace(
            workspace, [origin.url("/a.tar.gz")], [origin.url("/f.txt")], (ARCHIVE, FILE)
        )
        build = here.build(*server.flags(), ok=False)

    assert build.code != 0
    for contents in (FILE, b"something else\n"):
        assert hashlib.sha256(contents).hexdigest() in build.output
    assert origin.url("/f.txt") in build.output


def test_without_a_checksum_the_origin_is_asked_each_time_and_its_answer_told(
    server: AssetServer,
    workspace: Path,
    here: Bazel,
    there: Bazel,
    certificates: Certificates,
) -> None:
    # Bazel takes nothing without a checksum by plain HTTP.
    with open_origin(certificates.server) as origin:
        origin.pages = {"/a.tar.gz": ARCHIVE, "/f.txt": b"the latest\n"}
        urls = [origin.url("/a.tar.gz")], [origin.url("/f.txt")]
        make_workspace(workspace, *urls, (ARCHIVE, None))
        here.build(*server.flags())
        assert built(here).endswith("\nthe latest\n")

        del origin.pages["/f.txt"]
        build = there.build(*server.flags(), ok=False)

    assert build.code != 0
    assert "the origin answered 404" in build.output
    assert [path for path, _ in origin.asked].count("/f.txt") == 2


class Client(BuildStream):
    """One that knows of others only through a server, which keeps artifacts and sources."""

    def __init__(self, project: Path, folder: Path, server: AssetServer) -> None:
        here = f'{{url: "http://127.0.0.1:{server.port}", instance-name: {INSTANCE}, push: true}}'
        servers = f"artifacts:\n  servers:\n  - {here}\nsource-caches:\n  servers:\n  - {here}\n"
        super().__init__(project, folder, servers)

    def tell(self, *arguments: str) -> str:
        said = super().tell(*arguments)
        assert "Failed to initialize remote" not in said, said
        return said


def test_buildstream_finds_artifacts_and_sources_that_another_one_pushed(
    server: AssetServer, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    (project / "elements").mkdir(parents=True)
    (project / "project.conf").write_text('name: p\nmin-version: "2.0"\nelement-path: elements\n')
    with open_origin() as origin:
        origin.pages = {"/a.tar.gz": ARCHIVE}
        (project / "elements" / "base.bst").write_text(
            f"kind: import\nsources:\n- kind: tar\n  url: {origin.url('/a.tar.gz')}\n"
            f"  ref: {hashlib.sha256(ARCHIVE).hexdigest()}\n"
        )
        here = Client(project, tmp_path / "here", server)
        here.tell("build", "base.bst")
        here.tell("source", "push", "base.bst")

    # Nobody can have the source from its origin any more.
    there = Client(project, tmp_path / "there", server)
    there.tell("artifact", "pull", "base.bst")
    there.tell("artifact", "checkout", "--directory", str(tmp_path / "artifact"), "base.bst")
    third = Client(project, tmp_path / "third", server)
    third.tell("source", "fetch", "base.bst")
    third.tell("source", "checkout", "--directory", str(tmp_path / "source"), "base.bst")

    assert (tmp_path / "artifact" / "greeting.txt").read_text() == "hello from the archive\n"
    found = list((tmp_path / "source").rglob("greeting.txt"))
    assert [each.read_text() for each in found] == ["hello from the archive\n"]
