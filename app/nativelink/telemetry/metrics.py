"""What is measured: NativeLink's instruments under NativeLink's names, and ours beside them.

Names, units, attributes and bucket bounds of the first part are those of NativeLink v1.6.6, so
that dashboards and alerts stay as they are. An instrument stands here when something emits it.
"""

from __future__ import annotations

from typing import Final

from nativelink.telemetry.assets import ASSET_CATALOGUE
from nativelink.telemetry.execution_metrics import EXECUTION_CATALOGUE, FARM_CATALOGUE
from nativelink.telemetry.http_cache import HTTP_CACHE_CATALOGUE
from nativelink.telemetry.meter import Definition, Kind
from nativelink.telemetry.origin import ORIGIN_CATALOGUE

__all__ = [
    "BUILD_INFO",
    "CACHE_IO",
    "CACHE_ITEM_SIZE",
    "CACHE_OPERATIONS",
    "CACHE_OPERATION_DURATION",
    "CATALOGUE",
    "CONNECTIONS",
    "CONNECTIONS_ACCEPTED",
    "CONNECTIONS_FAILED",
    "CONNECTION_POOL_ACQUISITIONS",
    "CONNECTION_POOL_AVAILABLE",
    "CONNECTION_RECONNECTS",
    "EVENT_LOOP_LAG",
    "HEALTH_CHECKS",
    "PROCESS_CPU_TIME",
    "PROCESS_FILE_DESCRIPTORS",
    "PROCESS_MAX_FILE_DESCRIPTORS",
    "PROCESS_MEMORY",
    "PROCESS_START_TIME",
    "RPC_ACTIVE",
    "RPC_SERVER_DURATION",
    "STORE_COMPLETENESS_CHECKS",
    "STORE_DISK_AVAILABLE",
    "STORE_ENTRIES",
    "STORE_EVICTED_BYTES",
    "STORE_EVICTIONS",
    "STORE_MAX_SIZE",
    "STORE_REDUCTION_IO",
    "STORE_REFRESHES",
    "STORE_REQUESTS",
    "STORE_REQUEST_IO",
    "STORE_SIZE",
    "STORE_TIER_IO",
    "STORE_TIER_OPERATIONS",
    "TLS_EXPIRY_TIME",
]

_CACHE_ATTRIBUTES: Final = ("cache.type", "cache.operation.name", "cache.operation.result")

# -- NativeLink's -------------------------------------------------------------------------------

CACHE_OPERATION_DURATION: Final = Definition(
    "cache.operation.duration",
    Kind.HISTOGRAM,
    "ms",
    "Time that an operation on a cache_metrics store took, in milliseconds.",
    _CACHE_ATTRIBUTES,
    (
        0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0,
        500.0, 1000.0, 2000.0, 5000.0,
    ),
)  # fmt: skip
CACHE_OPERATIONS: Final = Definition(
    "cache.operations",
    Kind.COUNTER,
    "{operation}",
    "Operations on a cache_metrics store.",
    _CACHE_ATTRIBUTES,
)
CACHE_IO: Final = Definition(
    "cache.io",
    Kind.COUNTER,
    "By",
    "Bytes read from and written to a cache_metrics store.",
    _CACHE_ATTRIBUTES,
)
CACHE_ITEM_SIZE: Final = Definition(
    "cache.item.size",
    Kind.HISTOGRAM,
    "By",
    "Size of the items read from and written to a cache_metrics store.",
    _CACHE_ATTRIBUTES,
    # NativeLink leaves these to its SDK's default, which ends at 10,000 bytes; blobs need more.
    tuple(float(1024 * 4**power) for power in range(11)),
)
RPC_SERVER_DURATION: Final = Definition(
    "rpc.server.duration",
    Kind.HISTOGRAM,
    "s",
    "Time from a call's headers to the end of its answer.",
    ("rpc.service", "rpc.method", "rpc.grpc.status_code"),
    # A cache answers in tens of microseconds and streams for minutes.
    (
        0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
        1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
    ),
)  # fmt: skip
STORE_TIER_OPERATIONS: Final = Definition(
    "store.tier.operations",
    Kind.COUNTER,
    "{operation}",
    "Look-ups in the two sides of fast_slow stores.",
    ("store.tier", "store.result"),
)
STORE_TIER_IO: Final = Definition(
    "store.tier.io",
    Kind.COUNTER,
    "By",
    "Bytes read from and written to the two sides of fast_slow stores.",
    ("store.tier", "store.direction"),
)
HEALTH_CHECKS: Final = Definition(
    "health.checks",
    Kind.COUNTER,
    "{check}",
    "Results of the health checks of each component.",
    ("health.namespace", "health.status"),
)
CONNECTION_POOL_AVAILABLE: Final = Definition(
    "connection.pool.available",
    Kind.HISTOGRAM,
    "{connection}",
    "Connections to other servers that carried no call when a call took one.",
    ("connection.pool",),
    (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
)
CONNECTION_POOL_ACQUISITIONS: Final = Definition(
    "connection.pool.acquisitions",
    Kind.COUNTER,
    "{acquisition}",
    "Calls to other servers that got a connection at once (immediate), or had to wait for a free "
    "one or for it to be opened (queued).",
    ("connection.pool", "connection.result"),
)
CONNECTION_RECONNECTS: Final = Definition(
    "connection.reconnects",
    Kind.COUNTER,
    "{reconnect}",
    "Connections to other servers that broke and were opened again.",
    ("connection.pool",),
)

# -- ours ---------------------------------------------------------------------------------------

RPC_ACTIVE: Final = Definition(
    "rpc.server.active",
    Kind.UP_DOWN_COUNTER,
    "{call}",
    "Calls under way.",
    ("server",),
)
CONNECTIONS: Final = Definition(
    "connection.server.open",
    Kind.UP_DOWN_COUNTER,
    "{connection}",
    "Connections that clients hold open.",
    ("server",),
)
CONNECTIONS_ACCEPTED: Final = Definition(
    "connection.server.accepted",
    Kind.COUNTER,
    "{connection}",
    "Connections accepted since the start.",
    ("server",),
)
CONNECTIONS_FAILED: Final = Definition(
    "connection.server.failed",
    Kind.COUNTER,
    "{connection}",
    "Connections turned away or ended for a fault, by it: too many connections, what OpenSSL says "
    "of a TLS handshake, an HTTP/2 error code.",
    ("server", "reason"),
)
TLS_EXPIRY_TIME: Final = Definition(
    "tls.server.expiry_time",
    Kind.GAUGE,
    "s",
    "When a TLS file in use expires, seconds since the epoch: the certificate of cert_file or "
    "client_ca_file that does so first, or the list of client_crl_file whose nextUpdate is first.",
    ("server", "file"),
)
STORE_SIZE: Final = Definition(
    "store.size",
    Kind.UP_DOWN_COUNTER,
    "By",
    "Bytes that a store holds, counted as its eviction policy counts them.",
    ("store.name", "store.type"),
)
STORE_MAX_SIZE: Final = Definition(
    "store.max_size",
    Kind.GAUGE,
    "By",
    "Bytes that a store may hold (eviction_policy.max_bytes); absent where there is no limit.",
    ("store.name", "store.type"),
)
STORE_DISK_AVAILABLE: Final = Definition(
    "store.disk.available",
    Kind.GAUGE,
    "By",
    "Bytes that may still be written to the disk of a filesystem store, by whomever. Below 2 % of "
    "it, or 1 GiB if that is more, the store evicts whatever its policy says.",
    ("store.name", "store.type"),
)
STORE_ENTRIES: Final = Definition(
    "store.entries",
    Kind.UP_DOWN_COUNTER,
    "{entry}",
    "Entries that a store holds.",
    ("store.name", "store.type"),
)
STORE_EVICTIONS: Final = Definition(
    "store.evictions",
    Kind.COUNTER,
    "{entry}",
    "Entries that a store evicted.",
    ("store.name", "store.type"),
)
STORE_EVICTED_BYTES: Final = Definition(
    "store.evicted",
    Kind.COUNTER,
    "By",
    "Bytes that a store evicted.",
    ("store.name", "store.type"),
)
STORE_REQUESTS: Final = Definition(
    "store.requests",
    Kind.COUNTER,
    "{request}",
    "Requests to the bucket of an object store, each try by itself.",
    ("store.name", "store.operation", "store.result"),
)
STORE_REQUEST_IO: Final = Definition(
    "store.requests.io",
    Kind.COUNTER,
    "By",
    "Bytes of objects read from and written to the bucket of an object store.",
    ("store.name", "store.direction"),
)
STORE_REFRESHES: Final = Definition(
    "store.refreshes",
    Kind.COUNTER,
    "{object}",
    "Objects in use that were copied onto themselves so that no lifecycle rule deletes them "
    "(refresh_after_s).",
    ("store.name", "store.result"),
)
STORE_REDUCTION_IO: Final = Definition(
    "store.reduction.io",
    Kind.COUNTER,
    "By",
    "Bytes of the blobs that were given to a compression or dedup store, and bytes that it stored "
    "for them.",
    ("store.name", "store.type", "store.side"),
)
STORE_COMPLETENESS_CHECKS: Final = Definition(
    "store.completeness.checks",
    Kind.COUNTER,
    "{result}",
    "Action results that a completeness_checking store took for complete because they were a short "
    "while ago, that it looked into, and that it forgot because a part was lost.",
    ("store.name", "store.result"),
)
EVENT_LOOP_LAG: Final = Definition(
    "event_loop.lag",
    Kind.HISTOGRAM,
    "s",
    "How much later than asked for the event loop woke up: what every call waits at least.",
    (),
    (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0),
)
# The names of this group are those that every Prometheus client library uses, so the usual
# dashboards fit (see `prometheus.py`: this group alone gets no `nativelink_`).
PROCESS_MEMORY: Final = Definition(
    "process.resident_memory", Kind.GAUGE, "By", "Resident memory of the process."
)
PROCESS_CPU_TIME: Final = Definition(
    "process.cpu", Kind.COUNTER, "s", "User and system CPU time that the process used."
)
PROCESS_FILE_DESCRIPTORS: Final = Definition(
    "process.open_fds", Kind.GAUGE, "", "Open file descriptors."
)
PROCESS_MAX_FILE_DESCRIPTORS: Final = Definition(
    "process.max_fds", Kind.GAUGE, "", "File descriptors that the process may open."
)
PROCESS_START_TIME: Final = Definition(
    "process.start_time", Kind.GAUGE, "s", "When the process started, seconds since the epoch."
)
BUILD_INFO: Final = Definition(
    "build.info",
    Kind.GAUGE,
    "",
    "1, with the versions in its labels.",
    ("version", "python"),
)

#: Every instrument, for the reference page and for tests.
CATALOGUE: Final = (
    CACHE_OPERATION_DURATION,
    CACHE_OPERATIONS,
    CACHE_IO,
    CACHE_ITEM_SIZE,
    RPC_SERVER_DURATION,
    STORE_TIER_OPERATIONS,
    STORE_TIER_IO,
    HEALTH_CHECKS,
    CONNECTION_POOL_AVAILABLE,
    CONNECTION_POOL_ACQUISITIONS,
    CONNECTION_RECONNECTS,
    *EXECUTION_CATALOGUE,
    RPC_ACTIVE,
    *HTTP_CACHE_CATALOGUE,
    CONNECTIONS,
    CONNECTIONS_ACCEPTED,
    CONNECTIONS_FAILED,
    TLS_EXPIRY_TIME,
    STORE_SIZE,
    STORE_MAX_SIZE,
    STORE_DISK_AVAILABLE,
    STORE_ENTRIES,
    STORE_EVICTIONS,
    STORE_EVICTED_BYTES,
    STORE_REQUESTS,
    STORE_REQUEST_IO,
    STORE_REFRESHES,
    STORE_REDUCTION_IO,
    STORE_COMPLETENESS_CHECKS,
    *ASSET_CATALOGUE,
    *FARM_CATALOGUE,
    *ORIGIN_CATALOGUE,
    EVENT_LOOP_LAG,
    PROCESS_MEMORY,
    PROCESS_CPU_TIME,
    PROCESS_FILE_DESCRIPTORS,
    PROCESS_MAX_FILE_DESCRIPTORS,
    PROCESS_START_TIME,
    BUILD_INFO,
)
