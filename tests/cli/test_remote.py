"""What all commands that ask a server have in common."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.farm import CONFIG, Blobs, CommandLine, Farm, farm, text_of
from tests.cli.servers import NATIVELINK
from tests.execution.gate import wait_for
from tests.sockets import held
from tests.transport.authority import Authority

DIGEST = f"{'0' * 64}/1"


def port_of(running: Farm) -> int:
    return int(running.address.rpartition(":")[2])


@pytest.mark.slow
def test_a_server_that_is_not_there_is_one_line(nativelink: CommandLine):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"grpc://127.0.0.1:{closed.getsockname()[1]}"
        for command in (["cas", "cat", DIGEST], ["ops", "list"], ["workers", "list"]):
            answer = nativelink(*command, "--server", url)
            assert answer.code == 2
            assert answer.err == (
                f"nativelink: {url} cannot be reached: nothing listens there; "
                "is the server running?\n"
            )


def test_a_service_that_is_not_served_is_one_line(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
):
    lines = [line for line in CONFIG.splitlines() if "execution: [" not in line]
    with farm(tmp_path, "\n".join(lines)) as cache_only:
        answer = CommandLine(capfd, cache_only.url)("ops", "list")
    assert answer.code == 2
    assert answer.err.startswith(f"nativelink: {cache_only.url} does not serve that: ")
    assert len(answer.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--server", "localhost"], "grpc://host:port is expected"),
        (["--server", "grpc://::1:50051"], "an IPv6 address stands in brackets"),
        (["--tls-ca", "ca.crt"], "is no TLS address"),
        (["--tls-cert", "client.crt"], "--tls-cert needs its private key, --tls-key"),
        (["--tls-key", "client.key"], "--tls-key needs the certificate"),
        (["--server", "grpcs://127.0.0.1:1", "--tls-ca", "no.crt"], "no.crt cannot be read"),
        (["--instance", "other"], "no instance 'other'"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_said_to_be_wrong(
    nativelink: CommandLine, arguments: list[str], why: str
):
    answer = nativelink("cas", "cat", DIGEST, *arguments)
    assert answer.code == 2
    assert why in answer.err
    assert len(answer.err.splitlines()) == 1


@pytest.mark.slow
def test_the_environment_says_which_server(
    asked: Farm, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, blobs: Blobs
):
    monkeypatch.setenv("NATIVELINK_SERVER", asked.url)
    monkeypatch.setenv("NATIVELINK_INSTANCE", "main")
    digest = text_of(blobs.put(b"hello"))
    ran = subprocess.run(
        [NATIVELINK, "cas", "cat", digest], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "hello", "")


@pytest.mark.slow
def test_who_reads_no_further_ends_the_command_quietly(asked: Farm, blobs: Blobs):
    digest = text_of(blobs.put(b"x" * 3_000_000))
    command = [NATIVELINK, "cas", "cat", "--server", asked.url, "--instance", "main", digest]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reading:
        assert reading.stdout is not None
        assert reading.stderr is not None
        assert reading.stdout.read(10) == b"x" * 10
        reading.stdout.close()
        assert reading.wait(120) == 141
        assert reading.stderr.read() == b""


@pytest.mark.slow
def test_a_name_that_the_output_cannot_spell_is_escaped(asked: Farm, blobs: Blobs):
    digest = text_of(blobs.directory({"größe.h": b"x"}))
    ran = subprocess.run(
        [NATIVELINK, "cas", "ls", digest, "--server", asked.url, "--instance", "main"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.endswith("  gr\\xf6\\xdfe.h\n")


@pytest.mark.slow
def test_an_answer_that_cannot_be_written_is_one_line(asked: Farm, blobs: Blobs):
    digest = text_of(blobs.directory({"f": b"x"}))
    where = ["--server", asked.url, "--instance", "main"]
    for command in (["cas", "ls", digest], ["cas", "cat", digest], ["ops", "list", "--json"]):
        with Path("/dev/full").open("wb") as full:
            ran = subprocess.run(
                [NATIVELINK, *command, *where],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert ran.returncode == 2
        assert ran.stderr == "nativelink: standard output: No space left on device\n"


def test_a_server_with_tls_and_client_certificates_is_asked(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
):
    authority = Authority(tmp_path)
    cert, key = authority.issue("server")
    client = authority.issue("client")
    config = CONFIG.replace(
        'socket_address: "127.0.0.1:0"',
        f'socket_address: "127.0.0.1:0", tls: {{ cert_file: "{cert}", key_file: "{key}", '
        f'client_ca_file: "{authority.file}" }}',
    )
    with farm(tmp_path, config) as secured:
        url = f"grpcs://{secured.address}"
        nativelink = CommandLine(capfd, url)
        shown = ["--tls-ca", authority.file, "--tls-cert", client[0], "--tls-key", client[1]]
        (tmp_path / "file").write_text("secret")
        put = nativelink("cas", "put", tmp_path / "file", *shown)
        assert put.code == 0, put.err
        assert nativelink("cas", "cat", put.out.split()[0], *shown).out == "secret"
        assert nativelink("workers", "list", *shown) == (0, "no workers\n", "")
        refused = nativelink("workers", "list", "--tls-ca", authority.file)
        assert refused.code == 2
        assert refused.err.endswith("; --tls-cert and --tls-key show one\n")
        wait_for(lambda: not held(port_of(secured)), "the end of all connections")


@pytest.mark.slow
def test_what_grpc_has_to_say_of_a_handshake_is_not_for_people(asked: Farm, tmp_path: Path):
    url, authority = f"grpcs://{asked.address}", Authority(tmp_path)
    ran = subprocess.run(
        [NATIVELINK, "ops", "list", "--server", url, "--tls-ca", authority.file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr == (
        f"nativelink: {url} cannot be reached: it speaks plain text, not TLS; ask {asked.url}\n"
    )


def test_a_way_that_ends_in_tls_is_told_with_what_helps(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, asked: Farm
):
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    cert, key = authority.issue("server")
    config = CONFIG.replace(
        'socket_address: "127.0.0.1:0"',
        f'socket_address: "127.0.0.1:0", tls: {{ cert_file: "{cert}", key_file: "{key}" }}',
    )
    with farm(tmp_path, config) as secured:
        url = f"grpcs://{secured.address}"
        nativelink = CommandLine(capfd, url)
        for command in (["cas", "cat", DIGEST], ["workers", "list"]):
            for options, remedy in (
                (["--server", f"grpc://{secured.address}"], f"it speaks TLS; ask {url}"),
                (["--tls-ca", other.file], f"; --tls-ca {other.file} is of another authority"),
                (["--tls-ca", key], f": {key} cannot be used: "),
                ([], "; --tls-ca names the file of its authority"),
            ):
                answer = nativelink(*command, *options)
                assert (answer.code, answer.out) == (2, "")
                assert remedy in answer.err
        wait_for(lambda: not held(port_of(secured)), "the end of all connections")
        url = f"grpcs://{asked.address}"
        answer = nativelink("ops", "list", "--server", url, "--tls-ca", authority.file)
        assert answer.err.endswith(
            f"nativelink: {url} cannot be reached: it speaks plain text, not TLS; ask {asked.url}\n"
        )


def test_a_server_that_cannot_do_what_is_asked_now_is_not_said_to_be_away(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
):
    away = 'grpc: { endpoints: [{ address: "grpc://127.0.0.1:1" }], store_type: "cas" }'
    config = CONFIG.replace('memory: { eviction_policy: { max_bytes: "64mb" } }', away)
    with farm(tmp_path, config) as lame:
        answer = CommandLine(capfd, lame.url)("cas", "cat", DIGEST)
    assert answer.code == 2
    assert answer.err.startswith(
        f"nativelink: {lame.url} can be reached, but not what was asked for: "
    )
    assert "127.0.0.1:1" in answer.err


def test_the_help_groups_the_commands(nativelink: CommandLine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    ran = subprocess.run([NATIVELINK, "--help"], capture_output=True, text=True, check=True)
    run, inside = (ran.stdout.index(title) for title in (" Run ", " Look inside a running system "))
    order = [ran.stdout.index(f" {name} ") for name in ("serve", "config")]
    order += [ran.stdout.index(f"│ {name} ") for name in ("ops", "workers", "action", "ac", "cas")]
    assert run < order[0] < order[1] < inside < order[2]
    assert order == sorted(order)


@pytest.mark.slow
def test_a_server_starts_without_what_asks_servers():
    program = (
        "import sys; from nativelink.cli.main import app; import nativelink.cli.serve; "
        "sys.exit([name for name in sys.modules if name.startswith('nativelink.client')] != [])"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
