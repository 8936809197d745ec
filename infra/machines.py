"""The environment of each role's machines: settings and addresses put into variables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from infra import environment, retention, user_data
from infra.capacity import slots_of
from infra.environment import (
    CLIENT_PORT,
    SCHEDULER_PORT,
    SECRETS_DIRECTORY,
    STATUS_PORT,
    WORKER_API_PORT,
    WORKER_CAS_PORT,
    Role,
)
from infra.kit import Kit
from infra.settings import ISA, MutualTls, PoolSettings, ServerTls

__all__ = ["Addresses", "properties_of", "user_data_of"]

_IMDS: Final = "http://169.254.169.254"
#: Of a worker's disk, what inputs may take up; the rest is for what actions write.
_INPUTS_PERCENT: Final = 65


@dataclass(frozen=True)
class Addresses:
    """What machines need to know of each other; each may be a reference that Terraform resolves.

    Attributes:
        redis, redis_port: of Valkey's primary.
        redis_secret: ARN of its password's secret.
        scheduler, worker_api, worker_cas: host names.
        queue_url: of the drain queue.
        namespace: of metrics in CloudWatch.
        buckets: names, by purpose.
    """

    redis: str
    redis_port: int
    redis_secret: str
    scheduler: str
    worker_api: str
    worker_cas: str
    queue_url: str
    namespace: str
    ready_hook: str
    drain_hook: str
    buckets: Mapping[str, str]


def properties_of(pool: PoolSettings) -> dict[str, str]:
    """Platform properties that all workers of a pool have, besides their size."""
    return {"ISA": pool.isa.value, "OSFamily": "Linux", "pool": pool.name}


def user_data_of(
    kit: Kit, role: Role, addresses: Addresses, pool: PoolSettings | None = None
) -> str:
    """The script that a machine of a role runs when it starts for the first time."""
    values = _common(kit, role, pool) | _tls(kit)
    match role:
        case "cas":
            values |= _stores(kit, addresses) | _cas(kit, addresses)
        case "scheduler":
            values |= _stores(kit, addresses) | _scheduler(kit, addresses)
        case "worker":
            assert pool is not None
            values |= _worker(kit, addresses, pool)
    values["NATIVELINK_LAUNCHING_HOOK"] = addresses.ready_hook
    return user_data.script(role, environment.lines(role, values))


def _common(kit: Kit, role: Role, pool: PoolSettings | None) -> dict[str, str]:
    local = kit.local
    return {
        "NATIVELINK_ROLE": role,
        "NATIVELINK_REGION": kit.settings.name,
        "AWS_REGION": kit.region,
        "NATIVELINK_GROUP": kit.group(role, pool.name if pool else None),
        "NATIVELINK_EC2": "true",
        "NATIVELINK_IMDS": local.metadata if local else _IMDS,
        "AWS_ENDPOINT_URL": local.endpoint if local else "",
        "NATIVELINK_STATUS_ADDRESS": f"0.0.0.0:{STATUS_PORT}",
        "NATIVELINK_LOG_GROUP": kit.path(role),
        "NL_LOG": "json",
    }


def _tls(kit: Kit) -> dict[str, str]:
    tls = kit.settings.tls
    mutual = tls if isinstance(tls, MutualTls) else None
    revoked = f"{SECRETS_DIRECTORY}/clients.crl" if mutual and mutual.revocation else ""
    return {
        "NATIVELINK_TLS": "mutual" if mutual else "server" if isinstance(tls, ServerTls) else "off",
        "NATIVELINK_INTERNAL_TLS": "mutual" if mutual else "off",
        "NATIVELINK_TLS_DIRECTORY": SECRETS_DIRECTORY,
        "NATIVELINK_CLIENT_CRL": revoked,
        "NATIVELINK_SECRET_TLS": mutual.secret_arn if mutual else "",
    }


def _stores(kit: Kit, addresses: Addresses) -> dict[str, str]:
    cas = retention.of_cas(kit.settings.storage)
    ac = retention.of_ac(kit.settings.storage)
    return {
        "NATIVELINK_CAS_BUCKET": addresses.buckets["cas"],
        "NATIVELINK_INDEX_BUCKET": addresses.buckets["index"],
        "NATIVELINK_AC_BUCKET": addresses.buckets["ac"],
        "NATIVELINK_CAS_EXPIRED_AFTER_S": str(cas.expired_after_s),
        "NATIVELINK_CAS_REFRESH_AFTER_S": str(cas.refresh_after_s),
        "NATIVELINK_AC_EXPIRED_AFTER_S": str(ac.expired_after_s),
        "NATIVELINK_AC_REFRESH_AFTER_S": str(ac.refresh_after_s),
        "NATIVELINK_INSECURE_S3": "true" if kit.local else "false",
        "NATIVELINK_REDIS_SCHEME": "redis" if kit.local else "rediss",
        "NATIVELINK_REDIS_HOST": addresses.redis,
        "NATIVELINK_REDIS_PORT": str(addresses.redis_port),
        "NATIVELINK_REDIS_USER": "server",
        "NATIVELINK_SECRET_REDIS_PASSWORD": "" if kit.local else addresses.redis_secret,
        "NATIVELINK_CLOUDWATCH": "true",
        "NATIVELINK_METRICS_NAMESPACE": addresses.namespace,
    }


def _scheme(kit: Kit) -> str:
    return "grpcs" if isinstance(kit.settings.tls, MutualTls) else "grpc"


def _cas(kit: Kit, addresses: Addresses) -> dict[str, str]:
    return {
        "NATIVELINK_AC_READ_ONLY": "false" if kit.settings.clients_write_results else "true",
        "NATIVELINK_CLIENT_ADDRESS": f"0.0.0.0:{CLIENT_PORT}",
        "NATIVELINK_WORKER_CAS_ADDRESS": f"0.0.0.0:{WORKER_CAS_PORT}",
        "NATIVELINK_SCHEDULER_ENDPOINT": (
            f"{_scheme(kit)}://{addresses.scheduler}:{SCHEDULER_PORT}"
        ),
        "NATIVELINK_MEMORY_PERCENT": str(kit.settings.cas.memory_percent),
        "NATIVELINK_DISK_PERCENT": str(kit.settings.cas.disk_percent),
    }


def _scheduler(kit: Kit, addresses: Addresses) -> dict[str, str]:
    pools = [
        {
            "name": pool.name,
            "properties": properties_of(pool),
            "slots": slots_of(pool),
            "group": kit.group("worker", pool.name),
            "min": pool.min,
            "max": pool.max,
            "idle_after_s": pool.idle_after_s,
        }
        for pool in kit.settings.pools
    ]
    return {
        "NATIVELINK_SCHEDULER_ADDRESS": f"0.0.0.0:{SCHEDULER_PORT}",
        "NATIVELINK_WORKER_API_ADDRESS": f"0.0.0.0:{WORKER_API_PORT}",
        "NATIVELINK_POOLS": json.dumps(pools, separators=(",", ":")),
        "NATIVELINK_METRICS_INTERVAL_S": "10",
        "NATIVELINK_DRAIN_QUEUE_URL": addresses.queue_url,
    }


def _worker(kit: Kit, addresses: Addresses, pool: PoolSettings) -> dict[str, str]:
    scheme = _scheme(kit)
    return {
        "NATIVELINK_WORKER_API_ENDPOINT": f"{scheme}://{addresses.worker_api}:{WORKER_API_PORT}",
        "NATIVELINK_CAS_ENDPOINT": f"{scheme}://{addresses.worker_cas}:{WORKER_CAS_PORT}",
        "NATIVELINK_POOL": pool.name,
        "NATIVELINK_ISA": ISA(pool.isa).value,
        "NATIVELINK_SLOTS": str(pool.slots),
        "NATIVELINK_TERMINATING_HOOK": addresses.drain_hook,
        "NATIVELINK_IDLE_AFTER_S": str(pool.idle_after_s),
        "NATIVELINK_NOTICE_MARGIN_S": "20",
        "NATIVELINK_DISK_PERCENT": str(_INPUTS_PERCENT),
    }
