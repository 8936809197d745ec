"""Outgoing connections with TLS: whom they trust and what they show."""

from __future__ import annotations

from pathlib import Path

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.transport.channel import GrpcChannel
from nativelink.transport.endpoints import ClientTls, Endpoint
from nativelink.transport.server import TlsSettings
from tests.transport.authority import Authority
from tests.transport.echo_service import PATH
from tests.transport.live import live


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_tls_checks_the_server_and_shows_a_certificate(authority: Authority) -> None:
    server = authority.issue("server")
    client = authority.issue("client")
    async with live(tls=TlsSettings(*server, authority.file)) as running:
        tls = ClientTls(ca_file=authority.file, cert_file=client[0], key_file=client[1])
        async with GrpcChannel([Endpoint(f"localhost:{running.port}", tls=tls)]) as channel:
            assert b"CN=client" in await channel.unary(PATH + "Peer", b"")


async def test_a_server_of_another_authority_is_not_trusted(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    async with live(tls=TlsSettings(*authority.issue("server"))) as running:
        endpoint = Endpoint(f"localhost:{running.port}", tls=ClientTls(ca_file=other.file))
        async with GrpcChannel([endpoint]) as channel:
            with pytest.raises(NativeLinkError) as caught:
                await channel.unary(PATH + "Unary", b"")
    assert caught.value.code is Code.UNAVAILABLE
    assert "CERTIFICATE_VERIFY_FAILED" in caught.value.message


async def test_a_renewed_certificate_is_used_when_the_old_one_is_refused(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    trusted = tmp_path / "trusted.crt"
    trusted.write_bytes(other.file.read_bytes())
    async with live(tls=TlsSettings(*authority.issue("server"))) as running:
        endpoint = Endpoint(f"localhost:{running.port}", tls=ClientTls(ca_file=trusted))
        async with GrpcChannel([endpoint]) as channel:
            with pytest.raises(NativeLinkError):
                await channel.unary(PATH + "Unary", b"")
            renewed = tmp_path / "renewed.crt"
            renewed.write_bytes(authority.file.read_bytes())
            renewed.rename(trusted)
            assert await channel.unary(PATH + "Unary", b"ok") == b"ok"


@pytest.mark.parametrize(
    ("tls", "message"),
    [
        (ClientTls(), "ca_file is missing"),
        (ClientTls(ca_file=Path("absent.pem")), "ca_file absent.pem cannot be read"),
        (ClientTls(ca_file=Path(__file__)), "holds no PEM"),
    ],
    ids=["no authority", "no file", "no PEM"],
)
async def test_unusable_tls_files_are_named_at_once(tls: ClientTls, message: str) -> None:
    channel = GrpcChannel([Endpoint("localhost:1", tls=tls)])
    with pytest.raises(NativeLinkError, match=message) as caught:
        await channel.__aenter__()
    assert caught.value.code is Code.INVALID_ARGUMENT
