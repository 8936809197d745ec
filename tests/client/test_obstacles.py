"""Why a server cannot be reached is told step by step."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nativelink.client import obstacles
from nativelink.client.obstacles import Fault, Obstacle, find_obstacle
from nativelink.testing.fakes import wait_until
from nativelink.transport.endpoints import ClientTls, Endpoint
from nativelink.transport.server import ServerSettings
from nativelink.transport.settings import TlsSettings
from tests.sockets import held
from tests.transport.authority import Authority
from tests.transport.live import live

ALERT = b"\x15\x03\x03\x00\x02\x02\x46"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def client(authority: Authority, pair: tuple[Path, Path] | None = None) -> ClientTls:
    cert, key = pair or (None, None)
    return ClientTls(ca_file=authority.file, cert_file=cert, key_file=key)


async def looked(address: str, tls: ClientTls | None = None) -> Obstacle | None:
    return await asyncio.to_thread(find_obstacle, Endpoint(address, tls=tls), timeout_s=20)


async def of_server(
    server: TlsSettings | None, tls: ClientTls | None, *, host: str = "127.0.0.1"
) -> Obstacle | None:
    """What is found on the way to a server of ours."""
    async with live(ServerSettings(address=f"{host}:0"), server) as running:
        found = await looked(f"{host}:{running.port}", tls)
        await wait_until(lambda: not held(running.port))
    return found


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server that treats every connection so, and hangs up."""

    def serve() -> None:
        # The end of the test shuts the socket down.
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection, contextlib.suppress(OSError):
                    answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def saying(text: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(text)

    return answer


async def test_nothing_is_in_the_way_to_a_server_that_is_there(authority: Authority) -> None:
    assert await of_server(None, None) is None
    pair = authority.issue("server")
    assert await of_server(TlsSettings(*pair), client(authority)) is None
    mutual = TlsSettings(*pair, client_ca_file=authority.file)
    assert await of_server(mutual, client(authority, authority.issue("client"))) is None


def test_a_name_that_cannot_be_looked_up_is_said() -> None:
    obstacle = find_obstacle(Endpoint(f"{'a' * 64}:1"))
    assert obstacle is not None
    assert obstacle.fault is Fault.NAME
    assert obstacle.what.startswith(f"the name {'a' * 64!r} cannot be looked up: ")


def test_why_a_name_is_not_known_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert find_obstacle(Endpoint("cache.example.com:443")) == Obstacle(
        Fault.NAME, "the name 'cache.example.com' cannot be looked up: Name or service not known"
    )


def test_that_nobody_listens_is_said() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        assert find_obstacle(Endpoint(address)) == Obstacle(Fault.CLOSED, "nothing listens there")


def test_who_takes_connections_and_says_nothing_is_silent(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        for tls in (None, client(authority)):
            assert find_obstacle(Endpoint(address, tls=tls), timeout_s=0.05) == Obstacle(
                Fault.SILENT, "nothing answers within 0.05 s"
            )


async def test_tls_to_a_server_of_plain_text_is_noticed(authority: Authority) -> None:
    obstacle = await of_server(None, client(authority))
    assert obstacle == Obstacle(Fault.PLAIN, "it speaks plain text, not TLS")


async def test_plain_text_to_a_server_of_tls_is_noticed(authority: Authority) -> None:
    obstacle = await of_server(TlsSettings(*authority.issue("server")), None)
    assert obstacle == Obstacle(Fault.TLS, "it speaks TLS")


async def test_plain_text_to_a_server_of_tls_that_goes_on_waiting_is_noticed(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silence(_: socket.socket) -> bytes:
        raise TimeoutError

    monkeypatch.setattr(obstacles, "_greeting", silence)
    obstacle = await of_server(TlsSettings(*authority.issue("server")), None)
    assert obstacle == Obstacle(Fault.TLS, "it speaks TLS")


async def test_a_certificate_of_another_authority_is_not_trusted(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    obstacle = await of_server(TlsSettings(*authority.issue("server")), client(other))
    assert obstacle is not None
    assert obstacle.fault is Fault.UNTRUSTED
    assert obstacle.what.startswith("its certificate is not trusted: ")


async def test_a_certificate_that_ended_is_said_to_have(authority: Authority) -> None:
    ended = authority.issue("ended", datetime.timedelta(minutes=-30))
    obstacle = await of_server(TlsSettings(*ended), client(authority))
    assert obstacle == Obstacle(
        Fault.OUT_OF_DATE, "its certificate cannot be used: certificate has expired"
    )


async def test_the_names_of_a_certificate_for_others_are_told(authority: Authority) -> None:
    server = TlsSettings(*authority.issue("server"), client_ca_file=authority.file)
    obstacle = await of_server(server, client(authority), host="127.0.0.2")
    assert obstacle == Obstacle(
        Fault.OTHER_NAME, "its certificate is for localhost, 127.0.0.1, and not for 127.0.0.2"
    )


async def test_a_client_without_a_certificate_hears_that_one_is_wanted(
    authority: Authority,
) -> None:
    server = TlsSettings(*authority.issue("server"), client_ca_file=authority.file)
    obstacle = await of_server(server, client(authority))
    assert obstacle is not None
    assert obstacle.fault is Fault.CLIENT


async def test_a_client_with_a_certificate_of_another_authority_hears_that_it_is_refused(
    authority: Authority, tmp_path: Path
) -> None:
    server = TlsSettings(*authority.issue("server"), client_ca_file=authority.file)
    stranger = Authority(tmp_path, "other").issue("client")
    obstacle = await of_server(server, client(authority, stranger))
    assert obstacle is not None
    assert obstacle.fault is Fault.CLIENT


@pytest.mark.parametrize(
    ("said", "obstacle"),
    [
        (ALERT, Obstacle(Fault.TLS, "it speaks TLS")),
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            Obstacle(Fault.STRANGE, "it speaks HTTP/1, and gRPC needs HTTP/2"),
        ),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", Obstacle(Fault.STRANGE, "it does not speak HTTP/2")),
        (b"", Obstacle(Fault.STRANGE, "it ends the connection at once")),
    ],
)
async def test_who_speaks_something_else_is_said_to(said: bytes, obstacle: Obstacle) -> None:
    with answering(saying(said)) as address:
        assert await looked(address) == obstacle


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.2p1\r\n", b""])
async def test_who_speaks_neither_tls_nor_http2_is_said_to(
    said: bytes, authority: Authority
) -> None:
    with answering(saying(said)) as address:
        found = await looked(address, client(authority))
    assert found == Obstacle(Fault.STRANGE, "it does not speak TLS")


@pytest.mark.parametrize(
    ("number", "obstacle"),
    [
        (42, Obstacle(Fault.CLIENT, "it asks for a client certificate (bad certificate)")),
        (70, Obstacle(Fault.HANDSHAKE, "it refuses the TLS handshake (protocol version)")),
    ],
)
async def test_a_refused_handshake_is_told_by_its_alert(
    number: int, obstacle: Obstacle, authority: Authority
) -> None:
    with answering(saying(ALERT[:-1] + bytes([number]))) as address:
        assert await looked(address, client(authority)) == obstacle


async def test_the_certificate_that_a_server_refuses_is_named(authority: Authority) -> None:
    pair = authority.issue("client")
    with answering(saying(ALERT[:-1] + bytes([44]))) as address:
        assert await looked(address, client(authority, pair)) == Obstacle(
            Fault.CLIENT, f"it refuses the client certificate {pair[0]} (certificate revoked)"
        )


async def test_a_file_without_a_certificate_is_named(authority: Authority, tmp_path: Path) -> None:
    empty = tmp_path / "ca.crt"
    empty.write_text("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
    server = TlsSettings(*authority.issue("server"))
    obstacle = await of_server(server, ClientTls(ca_file=empty))
    assert obstacle is not None
    assert obstacle.fault is Fault.FILES
    assert obstacle.what.startswith(f"{empty} cannot be used: ")


async def test_tls_without_http2_is_no_server_of_ours(authority: Authority) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server"))

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(1)

    with answering(answer) as address:
        assert await looked(address, client(authority)) == Obstacle(
            Fault.STRANGE, "it speaks TLS, but no HTTP/2 (ALPN)"
        )
