"""What a machine has to know before its role starts; `nativelink-prepare.service` runs it at boot.

User data wrote `/etc/nativelink/environment`, where nothing is secret. From that, from the
instance's metadata and from the machine itself come three things in `/run/nativelink`, which is
memory:

- `instance`: what this machine is, and how much of it the role may use;
- `secrets`: passwords, fetched by the ARNs in `NATIVELINK_SECRET_...`;
- `tls.crt`, `tls.key`, `ca.crt`, `client-ca.crt`, `clients.crl`: certificates, likewise.

A timer runs it again with `--refresh`, and the program takes new certificates without a restart.
All files belong to root and are readable by one group, which actions are not in.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import grp
import ipaddress
import json
import os
import shlex
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

GROUP: Final = "nativelink"
#: Readable by root and by the program.
MODE: Final = 0o640

#: Bytes of memory for each blob that is remembered to exist: an eighth of the memory, as an entry
#: takes about 300 bytes and an eighth is what those may have (docs/roles.md).
_MEMORY_PER_ENTRY: Final = 8192
_FEWEST_ENTRIES: Final = 500_000
_MOST_ENTRIES: Final = 8_000_000
#: Of what a worker keeps on its disk, one part in so many is whole input directories.
_DIRECTORIES_SHARE: Final = 4

#: Names of the files by the keys of the secret; the certificate last, as it is what is looked at.
_TLS_FILES: Final = {
    "ca": "ca.crt",
    "client_ca": "client-ca.crt",
    "crl": "clients.crl",
    "key": "tls.key",
    "cert": "tls.crt",
}
_TLS_REQUIRED: Final = ("cert", "key")
#: Of a certificate that nobody checks: longer than any machine is kept.
_SELF_SIGNED_DAYS: Final = 3650

#: Seconds that AWS may take to answer, all tries together. A machine that is not ready by then is
#: replaced by its group.
_PATIENCE_S: Final = 300.0
_PAUSE_S: Final = 5.0
_METADATA_TIMEOUT_S: Final = 5.0
_TOKEN_S: Final = 300

_T = TypeVar("_T")


class PrepareError(Exception):
    """The machine cannot serve; the message says what is wrong and what is allowed."""


# --- the environment file ---------------------------------------------------------------------


def read_environment(text: str) -> dict[str, str]:
    """Variables as systemd reads them from an `EnvironmentFile` without escapes."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name] = "".join(shlex.split(value))
    return found


def written(variables: Mapping[str, str]) -> str:
    """The text of such a file.

    Raises:
        PrepareError: a value cannot be written on one line in single quotes.
    """
    lines: list[str] = []
    for name, value in variables.items():
        if "\n" in value or "'" in value:
            # The value may be a secret.
            raise PrepareError(f"{name} has a line break or a single quote, which no value may")
        lines.append(f"{name}='{value}'\n")
    return "".join(lines)


# --- what this machine is ---------------------------------------------------------------------


def metadata(endpoint: str, paths: Mapping[str, str]) -> dict[str, str]:
    """What EC2 says of this instance, by IMDSv2.

    Args:
        endpoint: the service's address.
        paths: below `/latest/meta-data/`, by the name of what is found there.

    Raises:
        OSError: it does not answer.
    """
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_S)}
    token = _http("PUT", f"{endpoint}/latest/api/token", lifetime)
    header = {"X-aws-ec2-metadata-token": token}
    return {
        name: _http("GET", f"{endpoint}/latest/meta-data/{path}", header)
        for name, path in paths.items()
    }


def _http(method: str, url: str, headers: dict[str, str]) -> str:
    if not url.startswith(("http://", "https://")):
        raise PrepareError(f"NATIVELINK_IMDS makes {url!r}; an http address is allowed")
    request = urllib.request.Request(url, method=method, headers=headers)  # noqa: S310 - checked
    # Metadata is not behind a proxy, whatever the environment says.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_METADATA_TIMEOUT_S) as answer:
        text: str = answer.read().decode()
    return text.strip()


def sizes(environment: Mapping[str, str], data: Path) -> dict[str, str]:
    """What the role may use of this machine, in the units of its configuration file."""
    memory = memory_bytes()
    found = {"NATIVELINK_DATA": str(data)}
    if environment["NATIVELINK_ROLE"] == "scheduler":
        return found
    whole = os.statvfs(data)
    disk = whole.f_blocks * whole.f_frsize * _percent(environment, "NATIVELINK_DISK_PERCENT") // 100
    if environment["NATIVELINK_ROLE"] == "cas":
        share = _percent(environment, "NATIVELINK_MEMORY_PERCENT")
        entries = min(max(memory // _MEMORY_PER_ENTRY, _FEWEST_ENTRIES), _MOST_ENTRIES)
        return found | {
            "NATIVELINK_MEMORY": str(memory * share // 100),
            "NATIVELINK_EXISTENCE_ENTRIES": str(entries),
            "NATIVELINK_DISK": str(disk),
        }
    processors = len(os.sched_getaffinity(0))
    slots = int(environment["NATIVELINK_SLOTS"])
    return found | {
        "NATIVELINK_DISK": str(disk - disk // _DIRECTORIES_SHARE),
        "NATIVELINK_DIRECTORY_CACHE": str(disk // _DIRECTORIES_SHARE),
        "NATIVELINK_JOBS": str(slots or processors),
        "NATIVELINK_CPU_COUNT": str(processors),
        "NATIVELINK_MEMORY_KB": str(memory // 1024),
    }


def memory_bytes() -> int:
    """Of the whole machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _percent(environment: Mapping[str, str], name: str) -> int:
    text = environment[name]
    if not text.isdecimal() or not 0 < int(text) <= 100:
        raise PrepareError(f"{name} is {text!r}; a whole number from 1 to 100 is allowed")
    return int(text)


# --- secrets ----------------------------------------------------------------------------------


def secret_of(environment: Mapping[str, str], arn: str) -> str:
    """The value of a secret.

    Raises:
        BotoCoreError, ClientError: AWS does not give it.
    """
    client = boto3.client(
        "secretsmanager",
        region_name=environment["AWS_REGION"],
        endpoint_url=environment.get("AWS_ENDPOINT_URL") or None,
        config=Config(connect_timeout=5, read_timeout=10),
    )
    value: str = client.get_secret_value(SecretId=arn)["SecretString"]
    return value


def tls_files(environment: Mapping[str, str], fetch: Callable[[str], str]) -> dict[str, str]:
    """Certificates by the names of their files; none if nobody speaks TLS.

    Raises:
        PrepareError: the secret is not the object that it should be.
    """
    arn = environment.get("NATIVELINK_SECRET_TLS", "")
    if not arn:
        return {}
    try:
        secret: Any = json.loads(fetch(arn))
    except ValueError:
        secret = None
    allowed = f"a JSON object with {', '.join(reversed(_TLS_FILES))} is allowed, each a PEM text"
    if not isinstance(secret, dict) or not all(isinstance(each, str) for each in secret.values()):
        raise PrepareError(f"the secret {arn} is something else; {allowed}")
    if unknown := secret.keys() - _TLS_FILES.keys():
        raise PrepareError(f"the secret {arn} has {', '.join(sorted(unknown))}; {allowed}")
    required = [*_TLS_REQUIRED]
    if environment.get("NATIVELINK_INTERNAL_TLS") == "mutual":
        required += ["ca"]
    if environment.get("NATIVELINK_TLS") == "mutual":
        required += ["client_ca"]
    if environment.get("NATIVELINK_CLIENT_CRL"):
        required += ["crl"]
    if missing := [name for name in required if not secret.get(name)]:
        raise PrepareError(f"the secret {arn} lacks {', '.join(missing)}; {allowed}")
    return {file: secret[name] for name, file in _TLS_FILES.items() if secret.get(name)}


def self_signed(now: datetime.datetime) -> dict[str, str]:
    """A certificate for a load balancer, which encrypts and does not look whom it speaks to."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nativelink")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_SELF_SIGNED_DAYS))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    return {
        "tls.key": key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
        "tls.crt": certificate.public_bytes(serialization.Encoding.PEM).decode(),
    }


# --- logs -------------------------------------------------------------------------------------


def log_agent(environment: Mapping[str, str], file: str) -> str:
    """What CloudWatch's agent sends where: one stream for each machine in the role's group."""
    return json.dumps(
        {
            "logs": {
                "force_flush_interval": 5,
                "logs_collected": {
                    "files": {
                        "collect_list": [
                            {
                                "file_path": file,
                                "log_group_name": environment["NATIVELINK_LOG_GROUP"],
                                "log_stream_name": "{instance_id}",
                                "timezone": "UTC",
                            }
                        ]
                    }
                },
            }
        },
        indent=2,
    )


# --- writing ----------------------------------------------------------------------------------


def put(path: Path, text: str, mode: int = MODE) -> bool:
    """Write a file in one step, if it has another text; whether it had."""
    with contextlib.suppress(FileNotFoundError):
        if path.read_text(encoding="utf-8") == text:
            return False
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        _give(handle)
        os.fchmod(handle, mode)
    beside.replace(path)
    return True


def _give(handle: int | Path) -> None:
    """Let the program's group read it, on a machine that has that group."""
    if os.geteuid() != 0:
        return
    with contextlib.suppress(KeyError):
        os.chown(handle, 0, grp.getgrnam(GROUP).gr_gid)


def patiently(what: str, ask: Callable[[], _T], pause: Callable[[float], None]) -> _T:
    """Ask until there is an answer.

    Raises:
        PrepareError: there is none in five minutes.
    """
    deadline = time.monotonic() + _PATIENCE_S
    waited = 0.0
    while True:
        try:
            return ask()
        except (OSError, BotoCoreError, ClientError) as error:
            if waited >= _PATIENCE_S or time.monotonic() >= deadline:
                raise PrepareError(f"{what}: {error}") from error
            print(f"{what}: {error}; asking again", file=sys.stderr, flush=True)
            pause(_PAUSE_S)
            waited += _PAUSE_S


def prepare(
    environment: Mapping[str, str],
    *,
    runtime: Path,
    data: Path,
    refresh: bool = False,
    fetch: Callable[[Mapping[str, str], str], str] = secret_of,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Write everything that the role needs before it starts.

    Args:
        environment: what user data wrote.
        runtime: where to, a directory in memory; it is made.
        data: the directory on the fastest disk.
        refresh: only secrets and certificates, of a machine that runs.
        fetch: the value of a secret by its ARN.
        pause: waits so many seconds between two tries.

    Raises:
        PrepareError: something is missing or wrong.
    """
    runtime.mkdir(mode=0o750, parents=True, exist_ok=True)
    _give(runtime)
    # The mode that mkdir takes is less the umask, and the directory may be an older one.
    runtime.chmod(0o750)
    if not refresh:
        put(runtime / "instance", written(_instance(environment, data, pause)))

    def secret(arn: str) -> str:
        return patiently(f"secret {arn}", lambda: fetch(environment, arn), pause)

    passwords: dict[str, str] = {}
    if arn := environment.get("NATIVELINK_SECRET_REDIS_PASSWORD", ""):
        passwords["NATIVELINK_REDIS_PASSWORD"] = secret(arn)
    put(runtime / "secrets", written(passwords))
    files = tls_files(environment, secret)
    nobodys = environment.get("NATIVELINK_TLS") == "server" and not files
    if nobodys and not (runtime / "tls.crt").exists():
        files = self_signed(datetime.datetime.now(datetime.UTC))  # noqa: TID251 - of this machine
    for name, text in files.items():
        put(runtime / name, text)


def _instance(
    environment: Mapping[str, str], data: Path, pause: Callable[[float], None]
) -> dict[str, str]:
    endpoint = environment["NATIVELINK_IMDS"].rstrip("/")
    paths = {
        "NATIVELINK_INSTANCE_ID": "instance-id",
        "NATIVELINK_INSTANCE_TYPE": "instance-type",
        "NATIVELINK_AVAILABILITY_ZONE": "placement/availability-zone",
    }
    said = patiently("instance metadata", lambda: metadata(endpoint, paths), pause)
    return said | sizes(environment, data)


def main() -> int:
    """Read the options and prepare; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--environment", type=Path, default=Path("/etc/nativelink/environment"))
    parser.add_argument("--runtime", type=Path, default=Path("/run/nativelink"))
    parser.add_argument("--data", type=Path, default=Path("/data"))
    parser.add_argument("--agent", type=Path, help="directory of CloudWatch's agent's settings")
    parser.add_argument("--log", default="/var/log/nativelink/nativelink.log")
    parser.add_argument("--refresh", action="store_true", help="secrets and certificates only")
    told = parser.parse_args()
    try:
        environment = read_environment(told.environment.read_text(encoding="utf-8"))
        if environment.get("NATIVELINK_ROLE") not in {"cas", "scheduler", "worker"}:
            raise PrepareError(f"{told.environment} names no role; cas, scheduler, worker exist")
        prepare(environment, runtime=told.runtime, data=told.data, refresh=told.refresh)
        if told.agent is not None and told.agent.is_dir():
            put(told.agent / "nativelink.json", log_agent(environment, told.log), 0o644)
    except KeyError as error:
        print(f"nativelink-prepare: {told.environment} lacks {error.args[0]}", file=sys.stderr)
        return 1
    except (OSError, PrepareError) as error:
        print(f"nativelink-prepare: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
