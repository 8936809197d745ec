from __future__ import annotations

import json
import os
import re
import ssl
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ami.boot import prepare
from ami.boot.prepare import PrepareError
from infra.environment import (
    DERIVED,
    ENVIRONMENT_FILE,
    ROLES,
    SECRETS_DIRECTORY,
    VARIABLES,
    Role,
    lines,
)
from infra.user_data import environment_in, script
from nativelink.testing.imds import FakeImds
from tests.stores.cloud.servers import KEY, REGION, SECRET, Moto

_PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
_TLS = {name: f"{name}\n{_PEM}" for name in ("cert", "key", "ca", "client_ca", "crl")}


@pytest.fixture
def imds() -> Iterator[FakeImds]:
    with FakeImds() as fake:
        fake.said |= {
            "instance-id": "i-0123",
            "instance-type": "m7i.2xlarge",
            "placement/availability-zone": "eu-central-1a",
        }
        yield fake


def told(role: Role, imds: FakeImds, **changed: str) -> dict[str, str]:
    """What user data writes for a role, as the boot script reads it."""
    values = {each.name: each.example for each in VARIABLES if role in each.roles}
    values |= {"NATIVELINK_ROLE": role, "NATIVELINK_IMDS": imds.url, **changed}
    return prepare.read_environment(lines(role, values))


def secret(_: Mapping[str, str], arn: str) -> str:
    return json.dumps(_TLS) if arn.endswith("/tls") else "a-password"


def run(environment: Mapping[str, str], folder: Path, *, refresh: bool = False) -> Path:
    runtime = folder / "run"
    prepare.prepare(environment, runtime=runtime, data=folder, refresh=refresh, fetch=secret)
    return runtime


@pytest.mark.parametrize("role", ROLES)
def test_what_user_data_writes_is_what_the_machine_reads(role: Role) -> None:
    text = lines(role, {each.name: each.example for each in VARIABLES if role in each.roles})
    assert prepare.read_environment(text) == environment_in(script(role, text))


@pytest.mark.parametrize("role", ROLES)
def test_a_machine_finds_out_exactly_what_the_list_says(
    role: Role, imds: FakeImds, tmp_path: Path
) -> None:
    runtime = run(told(role, imds), tmp_path)
    found = prepare.read_environment((runtime / "instance").read_text())
    assert found.keys() == {each.name for each in DERIVED if role in each.roles}
    assert all(found.values())
    assert found["NATIVELINK_INSTANCE_ID"] == "i-0123"
    assert found["NATIVELINK_DATA"] == str(tmp_path)


def test_files_are_where_the_unit_looks_for_them(imds: FakeImds, tmp_path: Path) -> None:
    unit = Path("ami/systemd/nativelink@.service").read_text()
    user_data, *made = re.findall(r"^EnvironmentFile=-?(.+)$", unit, re.MULTILINE)
    assert user_data == ENVIRONMENT_FILE
    assert made == [f"{SECRETS_DIRECTORY}/{name}" for name in ("instance", "secrets")]
    runtime = run(told("cas", imds), tmp_path)
    assert all((runtime / Path(file).name).is_file() for file in made)


def test_sizes_are_the_asked_for_shares_of_the_machine(
    imds: FakeImds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "memory_bytes", lambda: 8 << 30)
    disk = os.statvfs(tmp_path)
    whole = disk.f_blocks * disk.f_frsize
    shares = {"NATIVELINK_MEMORY_PERCENT": "50", "NATIVELINK_DISK_PERCENT": "80"}
    cas = prepare.sizes(told("cas", imds, **shares), tmp_path)
    assert int(cas["NATIVELINK_MEMORY"]) == 4 << 30
    assert int(cas["NATIVELINK_DISK"]) == whole * 80 // 100
    assert cas["NATIVELINK_EXISTENCE_ENTRIES"] == str(1 << 20)

    worker = prepare.sizes(told("worker", imds, NATIVELINK_DISK_PERCENT="80"), tmp_path)
    blobs, directories = (
        int(worker[name]) for name in ("NATIVELINK_DISK", "NATIVELINK_DIRECTORY_CACHE")
    )
    assert blobs + directories == whole * 80 // 100
    assert blobs > directories > 0
    assert worker["NATIVELINK_MEMORY_KB"] == str(8 << 20)
    processors = str(len(os.sched_getaffinity(0)))
    assert worker["NATIVELINK_CPU_COUNT"] == worker["NATIVELINK_JOBS"] == processors
    slots = prepare.sizes(told("worker", imds, NATIVELINK_SLOTS="7"), tmp_path)
    assert slots["NATIVELINK_JOBS"] == "7"


@pytest.mark.parametrize("share", ["0", "101", "-1", "half"])
def test_a_share_that_is_none_is_refused(share: str, imds: FakeImds, tmp_path: Path) -> None:
    with pytest.raises(PrepareError, match=r"a whole number from 1 to 100"):
        prepare.sizes(told("cas", imds, NATIVELINK_MEMORY_PERCENT=share), tmp_path)


def test_passwords_are_in_a_file_that_the_program_alone_reads(
    imds: FakeImds, tmp_path: Path
) -> None:
    runtime = run(told("scheduler", imds), tmp_path)
    assert (runtime / "secrets").read_text() == "NATIVELINK_REDIS_PASSWORD='a-password'\n"
    for path in (runtime, *runtime.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o027 == 0, path
    assert stat.S_IMODE((runtime / "tls.key").stat().st_mode) == 0o640
    worker = run(told("worker", imds), tmp_path)
    assert (worker / "secrets").read_text() == ""


def test_a_secret_that_cannot_be_written_is_refused_and_not_told(
    imds: FakeImds, tmp_path: Path
) -> None:
    with pytest.raises(PrepareError) as raised:
        prepare.prepare(
            told("scheduler", imds),
            runtime=tmp_path / "run",
            data=tmp_path,
            fetch=lambda *_: "it's",
        )
    assert "NATIVELINK_REDIS_PASSWORD" in str(raised.value)
    assert "it's" not in str(raised.value)


def test_certificates_become_the_files_of_the_configuration(imds: FakeImds, tmp_path: Path) -> None:
    mutual = {"NATIVELINK_TLS": "mutual", "NATIVELINK_INTERNAL_TLS": "mutual"}
    runtime = run(told("cas", imds, **mutual), tmp_path)
    for file, key in (
        ("tls.crt", "cert"),
        ("tls.key", "key"),
        ("ca.crt", "ca"),
        ("client-ca.crt", "client_ca"),
        ("clients.crl", "crl"),
    ):
        assert (runtime / file).read_text() == _TLS[key]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("no JSON", "is something else"),
        ('["cert"]', "is something else"),
        ('{"cert": 1, "key": "k"}', "is something else"),
        ('{"cert": "c", "key": "k", "pass": "word"}', "has pass"),
        ('{"cert": "c"}', "lacks key"),
        ('{"cert": "c", "key": "k"}', "lacks ca, client_ca, crl"),
    ],
)
def test_a_secret_of_certificates_has_to_have_what_the_mode_needs(
    value: str, problem: str, imds: FakeImds
) -> None:
    mutual = {"NATIVELINK_TLS": "mutual", "NATIVELINK_INTERNAL_TLS": "mutual"}
    with pytest.raises(PrepareError, match=problem):
        prepare.tls_files(told("cas", imds, **mutual), lambda _: value)


def test_without_certificates_one_is_made_for_the_load_balancer_and_kept(
    imds: FakeImds, tmp_path: Path
) -> None:
    environment = told("cas", imds, NATIVELINK_SECRET_TLS="", NATIVELINK_TLS="server")
    runtime = run(environment, tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(runtime / "tls.crt", runtime / "tls.key")
    made = (runtime / "tls.crt").read_bytes()
    run(environment, tmp_path)
    run(environment, tmp_path, refresh=True)
    assert (runtime / "tls.crt").read_bytes() == made
    assert not (runtime / "ca.crt").exists()
    none = run({**environment, "NATIVELINK_TLS": "off"}, tmp_path / "off")
    assert not (none / "tls.crt").exists()


def test_a_refresh_replaces_certificates_and_asks_no_metadata(
    imds: FakeImds, tmp_path: Path
) -> None:
    environment = told("cas", imds)
    runtime = run(environment, tmp_path)
    (runtime / "tls.crt").write_text("old")
    before, same = imds.tokens, (runtime / "tls.key").stat().st_ino
    run(environment, tmp_path, refresh=True)
    assert (runtime / "tls.crt").read_text() == _TLS["cert"]
    assert (runtime / "tls.key").stat().st_ino == same, "what is unchanged is not written"
    assert imds.tokens == before


def test_metadata_that_is_not_there_yet_is_asked_for_again(imds: FakeImds, tmp_path: Path) -> None:
    imds.broken.add("token")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            imds.broken.clear()

    prepare.prepare(
        told("worker", imds), runtime=tmp_path / "run", data=tmp_path, fetch=secret, pause=pause
    )
    assert len(pauses) == 3


def test_after_five_minutes_it_gives_up_and_says_what_was_missing(
    imds: FakeImds, tmp_path: Path
) -> None:
    imds.broken.add("instance-type")
    pauses: list[float] = []
    with pytest.raises(PrepareError, match=r"instance metadata: HTTP Error 500"):
        prepare.prepare(
            told("worker", imds), runtime=tmp_path / "run", data=tmp_path, pause=pauses.append
        )
    assert sum(pauses) == 300


@pytest.mark.slow
def test_secrets_come_from_secrets_manager(
    imds: FakeImds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    moto = Moto()
    try:
        import boto3

        where = {"endpoint_url": f"http://127.0.0.1:{moto.port}", "region_name": REGION}
        client = boto3.client("secretsmanager", **where)
        arn = client.create_secret(Name="redis", SecretString="p4ss")["ARN"]
        client.close()
        environment = told(
            "scheduler",
            imds,
            AWS_REGION=REGION,
            AWS_ENDPOINT_URL=where["endpoint_url"],
            NATIVELINK_SECRET_REDIS_PASSWORD=arn,
            NATIVELINK_SECRET_TLS="",
            NATIVELINK_TLS="off",
        )
        prepare.prepare(environment, runtime=tmp_path / "run", data=tmp_path)
    finally:
        moto.close()
    assert (tmp_path / "run" / "secrets").read_text() == "NATIVELINK_REDIS_PASSWORD='p4ss'\n"


def command(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    where = [f"--environment={folder}/environment", f"--runtime={folder}/run", f"--data={folder}"]
    return subprocess.run(
        [sys.executable, "-I", "ami/boot/prepare.py", *where, *options],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_command_prepares_a_machine_and_its_log_agent(imds: FakeImds, tmp_path: Path) -> None:
    values = {each.name: each.example for each in VARIABLES if "worker" in each.roles}
    values |= {"NATIVELINK_ROLE": "worker", "NATIVELINK_IMDS": imds.url}
    values |= {"NATIVELINK_SECRET_TLS": "", "NATIVELINK_TLS": "off"}
    (tmp_path / "environment").write_text(lines("worker", values))
    agent = tmp_path / "agent"
    agent.mkdir()
    done = command(tmp_path, f"--agent={agent}", "--log=/var/log/a.log")
    assert (done.returncode, done.stderr) == (0, "")
    settings = json.loads((agent / "nativelink.json").read_text())
    (file,) = settings["logs"]["logs_collected"]["files"]["collect_list"]
    assert file["log_group_name"] == values["NATIVELINK_LOG_GROUP"]
    assert file["file_path"] == "/var/log/a.log"
    assert (tmp_path / "run" / "instance").exists()


@pytest.mark.slow
def test_the_command_says_in_a_line_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "environment").write_text("NATIVELINK_ROLE=cook\n")
    done = command(tmp_path)
    assert done.returncode == 1
    assert "names no role" in done.stderr
    (tmp_path / "environment").write_text("NATIVELINK_ROLE=cas\n")
    done = command(tmp_path)
    assert done.stderr == f"nativelink-prepare: {tmp_path}/environment lacks NATIVELINK_IMDS\n"
