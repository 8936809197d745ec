"""What a machine is told: every variable of `/etc/nativelink/environment`, in one place.

User data writes that file, one `NAME=value` line each, and starts `nativelink@ROLE.service`, which
runs `nativelink /opt/nativelink/configs/ROLE.json5`; one image serves every role. Nothing in the
file is secret. A secret is named by its ARN in a variable that begins with `NATIVELINK_SECRET_`,
and fetched when the machine starts into memory-backed files that only the service reads.

What a machine finds out by itself (its id, its size) is in `DERIVED`: the image's boot script
writes it to `/run/nativelink/instance`, in the same form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

Role = Literal["cas", "scheduler", "worker"]

ROLES: Final[tuple[Role, ...]] = ("cas", "scheduler", "worker")
_ALL: Final = frozenset(ROLES)
_CAS: Final[frozenset[Role]] = frozenset({"cas"})
_SCHEDULER: Final[frozenset[Role]] = frozenset({"scheduler"})
_WORKER: Final[frozenset[Role]] = frozenset({"worker"})
_STORES: Final[frozenset[Role]] = frozenset({"cas", "scheduler"})
_BLOBS: Final[frozenset[Role]] = frozenset({"cas", "worker"})

#: Ports that every machine of a role listens on.
CLIENT_PORT: Final = 50051
SCHEDULER_PORT: Final = 50052
WORKER_CAS_PORT: Final = 50053
WORKER_API_PORT: Final = 50061
STATUS_PORT: Final = 50090

ENVIRONMENT_FILE: Final = "/etc/nativelink/environment"
#: In memory: what a machine found out by itself, passwords, keys.
SECRETS_DIRECTORY: Final = "/run/nativelink"


@dataclass(frozen=True)
class Variable:
    """One line of the file.

    Attributes:
        name: as in the environment.
        meaning: one sentence, with the unit.
        example: a value as it really looks.
        roles: machines that get it.
        optional: may be there with an empty value, which means "not used".
    """

    name: str
    meaning: str
    example: str
    roles: frozenset[Role] = _ALL
    optional: bool = False


#: Written by user data. Every role gets exactly the lines that name it.
VARIABLES: Final[tuple[Variable, ...]] = (
    # -- who and where
    Variable("NATIVELINK_ROLE", "Which configuration file runs: cas, scheduler or worker.", "cas"),
    Variable("NATIVELINK_REGION", "Name of the region, as in regions/NAME.yaml.", "team"),
    Variable("AWS_REGION", "The AWS region that everything is in.", "eu-central-1"),
    Variable("NATIVELINK_GROUP", "Name of this machine's auto scaling group.", "nl-team-cas"),
    Variable(
        "NATIVELINK_EC2",
        "true: watch the instance's metadata, complete lifecycle hooks, leave when idle.",
        "true",
    ),
    Variable(
        "NATIVELINK_IMDS",
        "Instance metadata service; another address on a laptop only.",
        "http://169.254.169.254",
    ),
    Variable(
        "AWS_ENDPOINT_URL",
        "Another address for every AWS service; set on a laptop only.",
        "",
        optional=True,
    ),
    # -- stores: workers reach none of them but by way of the cas role
    Variable("NATIVELINK_CAS_BUCKET", "Bucket of blobs; keys begin with cas/.", "nl-cas", _STORES),
    Variable(
        "NATIVELINK_INDEX_BUCKET",
        "Bucket of indexes of chunked blobs; keys begin with index/.",
        "nl-index",
        _STORES,
    ),
    Variable(
        "NATIVELINK_AC_BUCKET", "Bucket of action results; keys begin with ac/.", "nl-ac", _STORES
    ),
    Variable(
        "NATIVELINK_CAS_EXPIRED_AFTER_S",
        "consider_expired_after_s of the CAS and index stores, below the lifecycle's age.",
        "15120000",
        _STORES,
    ),
    Variable(
        "NATIVELINK_CAS_REFRESH_AFTER_S",
        "refresh_after_s of the CAS and index stores.",
        "7776000",
        _STORES,
    ),
    Variable(
        "NATIVELINK_AC_EXPIRED_AFTER_S",
        "consider_expired_after_s of the AC's store.",
        "12614400",
        _STORES,
    ),
    Variable(
        "NATIVELINK_AC_REFRESH_AFTER_S", "refresh_after_s of the AC's store.", "6480000", _STORES
    ),
    Variable("NATIVELINK_INSECURE_S3", "true: S3 without TLS, on a laptop only.", "false", _STORES),
    Variable("NATIVELINK_REDIS_SCHEME", "rediss (TLS), or redis on a laptop.", "rediss", _STORES),
    Variable(
        "NATIVELINK_REDIS_HOST",
        "Host of the primary.",
        "master.nl-team.abc123.euc1.cache.amazonaws.com",
        _STORES,
    ),
    Variable("NATIVELINK_REDIS_PORT", "Its port.", "6379", _STORES),
    Variable(
        "NATIVELINK_REDIS_USER",
        "User there, who may use keys that begin with cas:, ac: and temp-.",
        "server",
        _STORES,
    ),
    Variable(
        "NATIVELINK_SECRET_REDIS_PASSWORD",
        "ARN of the secret with that user's password; becomes NATIVELINK_REDIS_PASSWORD. Empty on "
        "a laptop: no password.",
        "arn:aws:secretsmanager:eu-central-1:111122223333:secret:nativelink/team/redis-server",
        _STORES,
        optional=True,
    ),
    Variable(
        "NATIVELINK_AC_READ_ONLY",
        "true: clients may not write action results.",
        "false",
        _CAS,
    ),
    # -- addresses to listen on
    Variable(
        "NATIVELINK_CLIENT_ADDRESS",
        "Where the cas role listens for clients: cache and, forwarded, execution.",
        f"0.0.0.0:{CLIENT_PORT}",
        _CAS,
    ),
    Variable(
        "NATIVELINK_WORKER_CAS_ADDRESS",
        "Where the cas role listens for workers: blobs, no action results.",
        f"0.0.0.0:{WORKER_CAS_PORT}",
        _CAS,
    ),
    Variable(
        "NATIVELINK_SCHEDULER_ADDRESS",
        "Where the scheduler listens for executions, of clients and of the cas role.",
        f"0.0.0.0:{SCHEDULER_PORT}",
        _SCHEDULER,
    ),
    Variable(
        "NATIVELINK_WORKER_API_ADDRESS",
        "Where the scheduler listens for workers.",
        f"0.0.0.0:{WORKER_API_PORT}",
        _SCHEDULER,
    ),
    Variable(
        "NATIVELINK_STATUS_ADDRESS",
        "Where every role answers /status and /metrics by plain HTTP, for health checks.",
        f"0.0.0.0:{STATUS_PORT}",
    ),
    # -- addresses to connect to
    Variable(
        "NATIVELINK_SCHEDULER_ENDPOINT",
        "Address of the scheduler, for the cas role's grpc scheduler.",
        f"grpc://scheduler.team.nativelink.internal:{SCHEDULER_PORT}",
        _CAS,
    ),
    Variable(
        "NATIVELINK_WORKER_API_ENDPOINT",
        "Address of the worker API, behind a load balancer that only workers reach.",
        f"grpc://workers.team.nativelink.internal:{WORKER_API_PORT}",
        _WORKER,
    ),
    Variable(
        "NATIVELINK_CAS_ENDPOINT",
        "Address of the CAS for workers, behind the same load balancer.",
        f"grpc://cas.team.nativelink.internal:{WORKER_CAS_PORT}",
        _WORKER,
    ),
    # -- TLS
    Variable(
        "NATIVELINK_TLS",
        "For clients' connections: off, server (they check a certificate), mutual (they have one).",
        "server",
    ),
    Variable(
        "NATIVELINK_INTERNAL_TLS",
        "Between roles: off, or mutual, with the same certificate for both ends. Then the "
        "endpoints above begin with grpcs://.",
        "off",
    ),
    Variable(
        "NATIVELINK_TLS_DIRECTORY",
        "Where tls.crt, tls.key, ca.crt and client-ca.crt are.",
        SECRETS_DIRECTORY,
    ),
    Variable(
        "NATIVELINK_CLIENT_CRL",
        "File of revoked client certificates. Empty: none.",
        f"{SECRETS_DIRECTORY}/clients.crl",
        optional=True,
    ),
    Variable(
        "NATIVELINK_SECRET_TLS",
        "ARN of the secret with certificates, a JSON object with cert, key, ca, client_ca and, "
        "if clients are revoked, crl; becomes the files above. Empty with NATIVELINK_TLS=server: "
        "the machine makes a certificate for the load balancer, which does not check it.",
        "arn:aws:secretsmanager:eu-central-1:111122223333:secret:nativelink/team/tls",
        optional=True,
    ),
    # -- scheduling and scaling
    Variable(
        "NATIVELINK_POOLS",
        "Every worker pool, as JSON: name, the platform properties of its workers, slots of one "
        "worker, its auto scaling group, smallest and largest size, seconds until idle workers go.",
        '[{"name":"x86","properties":{"ISA":"x86-64","OSFamily":"Linux","pool":"x86"},"slots":8,'
        '"group":"nl-team-worker-x86","min":0,"max":50,"idle_after_s":15}]',
        _SCHEDULER,
    ),
    Variable(
        "NATIVELINK_CLOUDWATCH",
        "true: publish metrics, the scheduler of its pools, the cas role of its calls.",
        "true",
        _STORES,
    ),
    Variable("NATIVELINK_METRICS_NAMESPACE", "CloudWatch's namespace.", "NativeLink/team", _STORES),
    Variable("NATIVELINK_METRICS_INTERVAL_S", "Seconds between publications.", "10", _SCHEDULER),
    Variable(
        "NATIVELINK_DRAIN_QUEUE_URL",
        "SQS queue of spot notices, rebalance recommendations and lifecycle events of workers.",
        "https://sqs.eu-central-1.amazonaws.com/111122223333/nl-team-drain",
        _SCHEDULER,
    ),
    Variable("NATIVELINK_POOL", "Pool of this worker, its property pool.", "x86", _WORKER),
    Variable("NATIVELINK_ISA", "Platform property ISA of this worker.", "x86-64", _WORKER),
    Variable(
        "NATIVELINK_SLOTS",
        "Actions at the same time; 0: as many as processors. Becomes NATIVELINK_JOBS.",
        "0",
        _WORKER,
    ),
    Variable(
        "NATIVELINK_LAUNCHING_HOOK",
        "Lifecycle hook that a machine completes once it serves.",
        "ready",
    ),
    Variable(
        "NATIVELINK_TERMINATING_HOOK",
        "Lifecycle hook that a leaving worker completes.",
        "drain",
        _WORKER,
    ),
    Variable(
        "NATIVELINK_IDLE_AFTER_S",
        "Seconds without work until a worker drains and ends itself; the group's smallest size is "
        "the floor.",
        "15",
        _WORKER,
    ),
    Variable(
        "NATIVELINK_NOTICE_MARGIN_S",
        "Seconds before a spot deadline at which running actions are handed back.",
        "20",
        _WORKER,
    ),
    # -- budgets
    Variable(
        "NATIVELINK_MEMORY_PERCENT",
        "Share of the machine's memory for the store in memory; becomes NATIVELINK_MEMORY.",
        "40",
        _CAS,
    ),
    Variable(
        "NATIVELINK_DISK_PERCENT",
        "Share of the scratch disk for what is kept there; becomes NATIVELINK_DISK and, of a "
        "worker, NATIVELINK_DIRECTORY_CACHE.",
        "80",
        _BLOBS,
    ),
    # -- logs
    Variable("NATIVELINK_LOG_GROUP", "CloudWatch log group of this role.", "/nativelink/team/cas"),
    Variable("NL_LOG", "Form of log lines.", "json"),
)

#: Written by the image's boot script to `/run/nativelink/instance`.
DERIVED: Final[tuple[Variable, ...]] = (
    Variable("NATIVELINK_INSTANCE_ID", "EC2's id of this machine.", "i-0123456789abcdef0"),
    Variable("NATIVELINK_INSTANCE_TYPE", "Its instance type.", "m7i.2xlarge"),
    Variable("NATIVELINK_AVAILABILITY_ZONE", "Its zone.", "eu-central-1a"),
    Variable(
        "NATIVELINK_DATA", "Directory on the fastest local disk (NVMe, else the root).", "/data"
    ),
    Variable("NATIVELINK_MEMORY", "Bytes for the store in memory.", "12884901888", _CAS),
    Variable(
        "NATIVELINK_EXISTENCE_ENTRIES",
        "Blobs that are remembered to exist: one for each 8 KiB of memory.",
        "4194304",
        _CAS,
    ),
    Variable("NATIVELINK_DISK", "Bytes for the store on disk.", "400000000000", _BLOBS),
    Variable(
        "NATIVELINK_DIRECTORY_CACHE",
        "Bytes for input directories, a quarter of the worker's share of the disk.",
        "100000000000",
        _WORKER,
    ),
    Variable("NATIVELINK_JOBS", "Actions at the same time.", "8", _WORKER),
    Variable("NATIVELINK_CPU_COUNT", "Processors.", "8", _WORKER),
    Variable("NATIVELINK_MEMORY_KB", "KiB of memory.", "32505856", _WORKER),
)

_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:@%+,=-]*")


def names(role: Role) -> frozenset[str]:
    """The variables that a machine of this role gets."""
    return frozenset(variable.name for variable in VARIABLES if role in variable.roles)


def lines(role: Role, values: Mapping[str, str]) -> str:
    """The file's text for one role.

    A value with other characters than those of addresses stands in single quotes, which systemd
    and the shell read alike.

    Raises:
        ValueError: a variable of the role is missing, one is not the role's, one that must have a
            value is empty, or a value cannot be written on one line.
    """
    expected = names(role)
    if missing := expected - values.keys():
        raise ValueError(f"{role}: no value for {', '.join(sorted(missing))}")
    if extra := values.keys() - expected:
        raise ValueError(f"{role}: {', '.join(sorted(extra))} is not a variable of this role")
    return "".join(_written(role, variable, values) for variable in _of(role))


def _of(role: Role) -> Iterable[Variable]:
    return (variable for variable in VARIABLES if role in variable.roles)


def _written(role: Role, variable: Variable, values: Mapping[str, str]) -> str:
    value = values[variable.name]
    if not value and not variable.optional:
        raise ValueError(f"{role}: {variable.name} is empty")
    if "\n" in value or "'" in value:
        raise ValueError(f"{role}: {variable.name} cannot be written on one line: {value!r}")
    # A reference that Terraform resolves stands between ${ and }: it is an address or an ARN.
    plain = _PLAIN.fullmatch(re.sub(r"\$\{[^}]*\}", "", value))
    return f"{variable.name}={value}\n" if plain else f"{variable.name}='{value}'\n"
