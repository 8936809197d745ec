"""TLS on loopback: versions, ALPN, client certificates, revocation, files that change."""

import asyncio
import datetime
import errno
import json
import logging
import ssl
from contextlib import suppress

import pytest
from cryptography import x509

from nativelink.core.errors import NativeLinkError
from nativelink.testing.fakes import wait_until
from nativelink.transport.server import Server, ServerSettings, TlsSettings
from nativelink.transport.tls import TlsContexts
from tests.transport.authority import Authority
from tests.transport.live import live
from tests.transport.wire import ACK, GOAWAY, PING, frame, message


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def own(tmp_path):
    """An authority whose files a test may change."""
    return Authority(tmp_path)


def client_context(authority, *, pair=None, protocols=("h2",), version=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.file)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if pair is not None:
        context.load_cert_chain(*pair)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


async def echoes(client, text=b"hello"):
    client.greet()
    return (await client.answer(client.open("Unary", text)))[0] == message(text)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_calls_are_served_over_both_versions(authority, version):
    async with (
        live(tls=TlsSettings(*authority.issue("server"))) as running,
        running.connect(client_context(authority, version=version)) as client,
    ):
        ssl_object = client.writer.get_extra_info("ssl_object")
        assert ssl_object.selected_alpn_protocol() == "h2"
        assert await echoes(client)


async def test_an_older_version_is_refused(authority):
    context = client_context(authority)
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with live(tls=TlsSettings(*authority.issue("server"))) as running:
        with pytest.raises((ssl.SSLError, OSError)):
            async with running.connect(context):
                pass


async def test_plain_grpc_to_a_port_of_tls_ends_at_once(authority):
    # Without that it would end with the time for a handshake.
    patient = ServerSettings(address="127.0.0.1:0", handshake_timeout_s=3600)
    async with (
        live(patient, tls=TlsSettings(*authority.issue("server"))) as running,
        running.connect() as client,
    ):
        client.greet()
        assert await client.closed() == b""
        assert running.server.statistics().handshakes_failed == {"wrong version number": 1}


@pytest.mark.parametrize("protocols", [("http/1.1",), ()])
async def test_http_1_is_served_by_alpn_and_without_it(authority, protocols):
    async with (
        live(tls=TlsSettings(*authority.issue("server"))) as running,
        running.connect(client_context(authority, protocols=protocols)) as client,
    ):
        client.writer.write(b"GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await client.closed()).startswith(b"HTTP/1.1 200 ")


async def test_http_2_is_recognized_without_alpn(authority):
    async with (
        live(tls=TlsSettings(*authority.issue("server"))) as running,
        running.connect(client_context(authority, protocols=())) as client,
    ):
        assert await echoes(client)


async def test_a_client_certificate_is_known_to_the_handler(authority):
    pair = authority.issue("client")
    tls = TlsSettings(*authority.issue("server"), client_ca_file=authority.file)
    async with (
        live(tls=tls) as running,
        running.connect(client_context(authority, pair=pair)) as client,
    ):
        client.greet()
        body, _ = await client.answer(client.open("Peer", b""))
    assert json.loads(body[5:]) == [
        "CN=client,O=Builders",
        [
            "DNS:localhost",
            "IP:127.0.0.1",
            "URI:spiffe://test/client",
            "email:builder@test.example",
        ],
    ]


async def is_served(running, context):
    """Whether a client gets an answer; TLS 1.3 tells of a refusal only after the handshake."""
    try:
        async with running.connect(context) as client:
            return await echoes(client)
    except (EOFError, OSError, ssl.SSLError):
        return False


async def test_a_client_without_a_certificate_of_ours_is_refused(authority, tmp_path):
    stranger = Authority(tmp_path, "stranger").issue("client")
    tls = TlsSettings(*authority.issue("server"), client_ca_file=authority.file)
    async with live(tls=tls) as running:
        assert not await is_served(running, client_context(authority))
        assert not await is_served(running, client_context(authority, pair=stranger))
        assert await is_served(running, client_context(authority, pair=authority.issue("client")))


async def test_a_certificate_may_be_optional(authority):
    tls = TlsSettings(
        *authority.issue("server"), client_ca_file=authority.file, verify_client=False
    )
    async with live(tls=tls) as running:
        assert await is_served(running, client_context(authority))
        async with running.connect(
            client_context(authority, pair=authority.issue("client"))
        ) as client:
            client.greet()
            body, _ = await client.answer(client.open("Peer", b""))
            assert json.loads(body[5:])[0] == "CN=client,O=Builders"


async def test_a_revoked_certificate_is_refused(authority):
    good, bad = authority.issue("good"), authority.issue("bad")
    tls = TlsSettings(
        *authority.issue("server"),
        client_ca_file=authority.file,
        client_crl_file=authority.revoke("bad"),
    )
    async with live(tls=tls) as running:
        assert await is_served(running, client_context(authority, pair=good))
        assert not await is_served(running, client_context(authority, pair=bad))


def serial_of(client):
    der = client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(der).serial_number


async def test_a_new_certificate_is_served_and_old_connections_stay(own):
    async with (
        live(tls=TlsSettings(*own.issue("server"))) as running,
        running.connect(client_context(own)) as old,
    ):
        assert await echoes(old, b"before")
        before = serial_of(old)
        own.issue("server")
        running.pass_time(4)
        async with running.connect(client_context(own)) as new:
            assert serial_of(new) == own.issued["server"].serial_number
        assert (await old.answer(old.open("Unary", b"after")))[0] == message(b"after")
        assert serial_of(old) == before


async def test_a_revocation_takes_effect_without_a_restart(own):
    pair = own.issue("client")
    tls = TlsSettings(*own.issue("server"), client_ca_file=own.file, client_crl_file=own.revoke())
    async with live(tls=tls) as running:
        assert await is_served(running, client_context(own, pair=pair))
        own.revoke("client")
        running.pass_time(4)
        assert not await is_served(running, client_context(own, pair=pair))


async def test_broken_files_leave_the_old_ones_in_use_and_are_logged_once(own, caplog):
    certificate, key = own.issue("server")
    async with live(tls=TlsSettings(certificate, key)) as running:
        for broken in (b"no certificate", None):
            if broken is None:
                certificate.unlink()
            else:
                certificate.write_bytes(broken)
            with caplog.at_level(logging.ERROR):
                caplog.clear()
                running.pass_time(4)
                running.pass_time(4)
            assert len(caplog.records) == 1
            assert str(certificate) in caplog.text
            assert await is_served(running, client_context(own))
        own.issue("server")
        running.pass_time(4)
        async with running.connect(client_context(own)) as client:
            assert serial_of(client) == own.issued["server"].serial_number


async def test_a_changed_file_is_not_looked_at_on_every_tick(own):
    async with live(tls=TlsSettings(*own.issue("server"))) as running:
        listener = running.server._server
        own.issue("server")
        running.pass_time(1)
        assert running.server._server is listener
        running.pass_time(3)
        await wait_until(lambda: running.server._server is not listener)


async def test_it_is_known_when_each_file_in_use_expires(own):
    week, month = datetime.timedelta(days=7), datetime.timedelta(days=30)
    tls = TlsSettings(
        *own.issue("server", month),
        client_ca_file=own.file,
        client_crl_file=own.revoke(valid=week),
    )
    async with live(tls=tls) as running:
        files = {"client_ca_file": own.end(), "client_crl_file": own.end(week)}
        assert running.server.statistics().tls_expires == {"cert_file": own.end(month), **files}
        # The first of several counts; and what cannot be used does not.
        soon, _ = own.issue("soon", week)
        with tls.cert_file.open("ab") as chain:
            chain.write(soon.read_bytes())
        running.pass_time(4)
        assert running.server.statistics().tls_expires == {"cert_file": own.end(week), **files}
        tls.key_file.write_bytes(b"")
        own.revoke(valid=month)
        running.pass_time(4)
        assert running.server.statistics().tls_expires == {"cert_file": own.end(week), **files}
    async with live() as running:
        assert running.server.statistics().tls_expires == {}


def test_the_first_of_several_revocation_lists_is_the_one_that_expires(own):
    month = datetime.timedelta(days=30)
    lists = own.revoke(valid=month).read_bytes()
    tls = TlsSettings(*own.issue("server"), client_ca_file=own.file, client_crl_file=own.revoke())
    tls.client_crl_file.write_bytes(lists + tls.client_crl_file.read_bytes())
    contexts = TlsContexts(tls)
    contexts.load(0.0)
    assert contexts.expires["client_crl_file"] == own.end()


class Listening:
    """Stands between a server and its loop, where listeners are made: gated, or out of files."""

    def __init__(self, monkeypatch):
        loop = asyncio.get_running_loop()
        self._create = loop.create_server
        self.gate = asyncio.Event()
        self.begun = 0
        self.failures = 0
        monkeypatch.setattr(loop, "create_server", self.create)

    async def create(self, *arguments, **options):
        self.begun += 1
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        await self.gate.wait()
        return await self._create(*arguments, **options)


async def relistened(running):
    """No listener is being made any more."""
    await wait_until(
        lambda: running.server._relistening is None or running.server._relistening.done()
    )


async def test_a_drain_stops_a_listener_that_is_being_replaced(own, monkeypatch):
    async with live(tls=TlsSettings(*own.issue("server"))) as running:
        async with running.connect(client_context(own)) as client:
            client.greet()
            client.open("Wait", b"")
            await wait_until(lambda: running.server.statistics().calls == 1)
            listening = Listening(monkeypatch)
            own.issue("server")
            running.pass_time(4)
            assert listening.begun == 1
            async with asyncio.TaskGroup() as group:
                group.create_task(running.server.drain(5))
                await asyncio.sleep(0)
                listening.gate.set()
                await client.until(GOAWAY)
                client.writer.write(frame(PING, ACK, 0, (await client.frame()).payload))
                await client.until(GOAWAY)
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection("127.0.0.1", running.port)
                running.service.gate.set()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", running.port)


async def test_one_listener_serves_until_the_next_one_stands(own, monkeypatch):
    async with live(tls=TlsSettings(*own.issue("server"))) as running:
        before = own.issued["server"].serial_number
        listening = Listening(monkeypatch)
        own.issue("server")
        running.pass_time(4)
        async with running.connect(client_context(own)) as client:
            assert serial_of(client) == before
        # Another change meanwhile waits for its turn.
        own.issue("server")
        running.pass_time(4)
        assert listening.begun == 1
        listening.gate.set()
        await relistened(running)
        running.pass_time(4)
        await relistened(running)
        assert listening.begun == 2
        async with running.connect(client_context(own)) as client:
            assert serial_of(client) == own.issued["server"].serial_number


async def test_a_listener_that_cannot_be_made_is_tried_again(own, monkeypatch, caplog):
    async with live(tls=TlsSettings(*own.issue("server"))) as running:
        before = own.issued["server"].serial_number
        listening = Listening(monkeypatch)
        listening.gate.set()
        listening.failures = 2
        own.issue("server")
        with caplog.at_level(logging.ERROR):
            running.pass_time(4)
            running.pass_time(1)
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "Too many open files" in caplog.text
        async with running.connect(client_context(own)) as client:
            assert serial_of(client) == before
        running.pass_time(1)
        await relistened(running)
        async with running.connect(client_context(own)) as client:
            assert serial_of(client) == own.issued["server"].serial_number
        running.pass_time(1)
        assert listening.begun == 3


async def test_files_that_cannot_be_used_are_named_at_the_start(authority, tmp_path):
    certificate, key = authority.issue("server")
    broken = tmp_path / "broken.pem"
    broken.write_text("nothing")
    _, other_key = authority.issue("other")
    for tls, named in (
        (TlsSettings(broken, key), broken),
        (TlsSettings(certificate, other_key), other_key),
        (TlsSettings(certificate, tmp_path / "absent"), "absent"),
        (TlsSettings(certificate, key, client_ca_file=broken), "client_ca_file"),
        (TlsSettings(certificate, key, authority.file, broken), "client_crl_file"),
    ):
        with pytest.raises(NativeLinkError, match=str(named).replace("\\", "")):
            await Server([], tls=tls).start()


def test_settings_that_verify_nothing_are_refused(tmp_path):
    for extra in ({"verify_client": True}, {"client_crl_file": tmp_path}):
        with pytest.raises(NativeLinkError, match="client_ca_file"):
            TlsSettings(tmp_path, tmp_path, **extra)


def test_files_that_do_not_fit_are_each_called_by_name_and_fault(own):
    certificate, key = own.issue("server")
    other = own.issue("other")[1]
    encrypted = own.folder / "encrypted.key"
    encrypted.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    absent = own.folder / "absent"
    faults = {
        (absent, key): f"cert_file {absent} cannot be read: No such file or directory",
        (certificate, absent): f"key_file {absent} cannot be read: No such file or directory",
        (key, key): f"cert_file {key} holds no certificate in PEM",
        (certificate, certificate): f"key_file {certificate} holds no private key in PEM",
        (certificate, encrypted): f"key_file {encrypted} is encrypted, and nobody is asked for its "
        "password",
        (
            certificate,
            other,
        ): f"key_file {other} is not the key of the certificate in {certificate}",
    }
    for files, fault in faults.items():
        with pytest.raises(NativeLinkError) as refused:
            TlsContexts(TlsSettings(*files)).load(0.0)
        assert refused.value.message == f"tls: {fault}"


async def refusal(running, context):
    """What a client is told that is not let in."""
    try:
        async with running.connect(context) as client:
            client.greet()
            await client.reader.read()
    except ssl.SSLError as error:
        return error.reason
    return None


@pytest.mark.parametrize(
    ("version", "alert"),
    [
        (ssl.TLSVersion.TLSv1_2, "SSLV3_ALERT_HANDSHAKE_FAILURE"),
        (ssl.TLSVersion.TLSv1_3, "TLSV13_ALERT_CERTIFICATE_REQUIRED"),
    ],
)
async def test_who_is_refused_is_told_why_and_so_is_the_log(authority, caplog, version, alert):
    tls = TlsSettings(*authority.issue("server"), client_ca_file=authority.file)
    async with live(tls=tls) as running:
        context = client_context(authority, version=version)
        for _ in range(2):
            assert await refusal(running, context) == alert
        reason = "peer did not return a certificate"
        assert running.server.statistics().handshakes_failed == {reason: 2}
        caplog.clear()
        running.pass_time(1)
        assert caplog.messages == [f"TLS handshakes failed: 2 x {reason}"]

        caplog.clear()
        await refusal(running, context)
        running.pass_time(30)
        assert caplog.messages == []
        running.pass_time(30)
        assert caplog.messages == [f"TLS handshakes failed: 1 x {reason}"]


async def test_a_stranger_is_told_that_its_authority_is_unknown(authority, tmp_path):
    stranger = Authority(tmp_path, "stranger").issue("client")
    tls = TlsSettings(*authority.issue("server"), client_ca_file=authority.file)
    async with live(tls=tls) as running:
        context = client_context(authority, pair=stranger)
        assert await refusal(running, context) == "TLSV1_ALERT_UNKNOWN_CA"
        (reason,) = running.server.statistics().handshakes_failed
        assert reason == "unable to get local issuer certificate"


@pytest.mark.slow
async def test_a_peer_that_stays_after_its_refusal_is_closed_by_the_time_out(authority):
    # Long enough for what it says to come before.
    settings = ServerSettings(handshake_timeout_s=1)
    async with live(settings, tls=TlsSettings(*authority.issue("server"))) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        # A handshake record that holds no ClientHello (RFC 8446 section 4).
        writer.write(b"\x16\x03\x01\x00\x05hello")
        told = await reader.readexactly(7)
        # The time-out ends it one way or the other.
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        with suppress(ConnectionResetError):
            await writer.wait_closed()
        # One record: an alert (21), fatal (2), unexpected_message (10).
        assert (told[0], told[5:]) == (21, b"\x02\x0a")
        assert running.server.statistics().handshakes_failed == {"unexpected message": 1}


async def test_plain_http_on_a_port_for_tls_is_closed_at_once_and_counted(authority):
    async with live(tls=TlsSettings(*authority.issue("server"))) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        assert running.server.statistics().handshakes_failed == {"http request": 1}
