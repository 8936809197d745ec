"""Independent clients: grpcio in this process; h2spec, curl and h2load as programs."""

import json
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from tests.clients.programs import program, run
from tests.transport.authority import Authority
from tests.transport.wire import message

ECHO = "/test.Echo/"
SERVICE = Path(__file__).with_name("echo_service.py")


@contextmanager
def serving(*arguments):
    """The echo service in a process of its own; its port."""
    with subprocess.Popen(
        [sys.executable, str(SERVICE), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            yield int(line.rpartition(":")[2])
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def port():
    with serving() as number:
        yield number


@pytest.fixture(scope="module")
def asyncio_port():
    with serving("--loop", "asyncio") as number:
        yield number


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("clients"))


@pytest.fixture(scope="module")
def tls_port(authority):
    with serving("--tls", *authority.issue("server")) as number:
        yield number


@pytest.fixture(scope="module")
def mutual_tls_port(authority):
    with serving("--tls", *authority.issue("server"), authority.file) as number:
        yield number


# -- grpcio -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def channel(request):
    port = request.getfixturevalue("port" if request.param == "uvloop" else "asyncio_port")
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as opened:
        yield opened


def refused(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("method", ["Unary", "Suspended"])
@pytest.mark.parametrize("size", [0, 1, 1000, 16384, 3_000_000])
def test_grpcio_gets_its_message_back(channel, method, size):
    text = bytes(range(250)) * (size // 250 + 1)
    assert channel.unary_unary(ECHO + method)(text[:size], timeout=60) == text[:size]


def test_grpcio_understands_our_errors(channel):
    error = refused(lambda: channel.unary_unary(ECHO + "Fail")(b"blob"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "no blob here: 100% gone, ä"
    error = refused(lambda: channel.unary_unary(ECHO + "Missing")(b""))
    ((key, value),) = error.trailing_metadata()
    assert key == "grpc-status-details-bin"
    assert b"blobs/" + b"ab" * 32 + b"/7" in value
    error = refused(lambda: channel.unary_unary(ECHO + "Nothing")(b""))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "/test.Echo/Nothing" in error.details()
    error = refused(lambda: channel.unary_unary(ECHO + "Bug")(b""))
    assert error.code() is grpc.StatusCode.INTERNAL
    error = refused(lambda: channel.unary_unary(ECHO + "Unary")(bytes(5_000_000)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_grpcio_sees_deadlines_and_trailing_metadata(channel):
    error = refused(lambda: channel.unary_unary(ECHO + "Wait")(b"", timeout=0.05))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    _, call = channel.unary_unary(ECHO + "Trailing").with_call(b"")
    assert dict(call.trailing_metadata()) == {"x-text": "plain", "x-bytes-bin": b"\x00\xff"}


def test_grpcio_compresses(channel):
    call = channel.unary_unary(ECHO + "Unary")
    assert call(b"y" * 9000, compression=grpc.Compression.Gzip) == b"y" * 9000


def test_grpcio_streams_down_up_and_both_ways(channel):
    pieces = channel.unary_stream(ECHO + "Download")(b"8000000,70000")
    assert sum(map(len, pieces)) == 8_000_000
    chunks = [bytes(100_000)] * 60
    assert channel.stream_unary(ECHO + "Upload")(iter(chunks)) == b"6000000"
    assert b"".join(channel.stream_stream(ECHO + "Chat")(iter(chunks))) == b"".join(chunks)


def test_grpcio_takes_an_answer_before_it_has_sent_its_request(channel):
    gate = threading.Event()

    def endless():
        yield b"first"
        while not gate.wait(0.001):
            yield bytes(65_536)

    assert channel.stream_unary(ECHO + "Early")(endless(), timeout=60) == b"early"
    gate.set()
    assert channel.unary_unary(ECHO + "Unary")(b"on") == b"on"


def test_grpcio_over_tls_with_and_without_a_certificate(authority, tls_port, mutual_tls_port):
    roots = authority.file.read_bytes()
    plain = grpc.ssl_channel_credentials(roots)
    with grpc.secure_channel(f"localhost:{tls_port}", plain) as secure:
        assert secure.unary_unary(ECHO + "Unary")(b"x" * 100_000, timeout=60) == b"x" * 100_000
    certificate, key = authority.issue("client")
    own = grpc.ssl_channel_credentials(roots, key.read_bytes(), certificate.read_bytes())
    with grpc.secure_channel(f"localhost:{mutual_tls_port}", own) as secure:
        subject, _ = json.loads(secure.unary_unary(ECHO + "Peer")(b"", timeout=60))
        assert subject == "CN=client,O=Builders"
    with grpc.secure_channel(f"localhost:{mutual_tls_port}", plain) as secure:
        error = refused(lambda: secure.unary_unary(ECHO + "Peer")(b"", timeout=60))
        assert error.code() is grpc.StatusCode.UNAVAILABLE


# -- programs -----------------------------------------------------------------------------------


@pytest.mark.clients
@pytest.mark.slow
@pytest.mark.parametrize("strict", [(), ("--strict",)], ids=["default", "strict"])
@pytest.mark.parametrize("kind", ["port", "asyncio_port", "tls_port"])
def test_h2spec_has_nothing_to_say(request, kind, strict):
    h2spec = program("h2spec")
    tls = ["--tls", "--insecure"] if kind == "tls_port" else []
    target = ["--host", "127.0.0.1", "--port", request.getfixturevalue(kind)]
    output = run([h2spec, *target, *tls, *strict, "--timeout", "20"], timeout=600, check=False)
    passed = re.search(r"(\d+) tests, (\d+) passed, 0 skipped, 0 failed", output)
    assert passed, output[output.find("Failures:") :]
    assert int(passed[1]) >= 145


@pytest.mark.clients
@pytest.mark.parametrize(
    ("options", "version"),
    [(["--http1.1"], "1.1"), (["--http2-prior-knowledge"], "2"), (["--http2"], "1.1")],
)
def test_curl_speaks_both_protocols_in_plain_text(port, options, version):
    url = f"http://127.0.0.1:{port}/status"
    output = run([program("curl"), "-s", *options, "-w", "%{http_version} %{http_code}", url])
    assert output == f'{{"ok": true}}\n{version} 200'


@pytest.mark.clients
@pytest.mark.parametrize(("options", "version"), [(["--http1.1"], "1.1"), (["--http2"], "2")])
def test_curl_chooses_by_alpn(authority, tls_port, options, version):
    url = f"https://localhost:{tls_port}/post?q"
    command = [program("curl"), "-s", "--cacert", authority.file, *options, "-d", "abc"]
    output = run([*command, "-w", " %{http_version}", url])
    assert output == f"POST 3 q {version}"


@pytest.mark.clients
def test_h2load_is_answered_every_time(port, tmp_path):
    body = tmp_path / "body"
    body.write_bytes(message(b"x" * 40))
    output = run(
        [
            *(program("h2load", tool="nghttp2-client"), "-n", 3000, "-c", 4, "-m", 8),
            *("-d", body, "-H", "content-type: application/grpc", "-H", "te: trailers"),
            f"http://127.0.0.1:{port}{ECHO}Unary",
        ]
    )
    assert "3000 succeeded, 0 failed, 0 errored, 0 timeout" in output
