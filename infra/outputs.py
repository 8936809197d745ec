"""What a team is handed: an address, and the lines for `.bazelrc`."""

from __future__ import annotations

from infra.kit import Kit
from infra.settings import MutualTls, NoTls

__all__ = ["bazelrc", "endpoint_of"]


def endpoint_of(kit: Kit, balancer: str, port: int) -> str:
    """The address as Bazel takes it: by the clients' name, else by the balancer's own."""
    tls = kit.settings.tls
    if isinstance(tls, NoTls):
        return f"grpc://{balancer}:{port}"
    return f"grpcs://{tls.domain}:{port}"


def bazelrc(kit: Kit, endpoint: str) -> str:
    """The lines, as a server prints them, and those that a region needs besides.

    Bazel's five tries are over after three seconds. With ten, builds survived a server that was
    away for 8 seconds and failed when it was away for 15 (Bazel 4.2.3, docs/execution.md); a
    scheduler that is replaced is away for longer. Pings keep load balancers from forgetting a
    silent connection.
    """
    lines = [
        f"build --remote_executor={endpoint}",
        f"build --remote_cache={endpoint}",
        "build --remote_timeout=600",
        "build --remote_retries=10",
        "build --grpc_keepalive_time=30s",
        f"build --jobs={_jobs(kit)}",
    ]
    if isinstance(kit.settings.tls, MutualTls):
        lines += [
            "build --tls_certificate=/etc/nativelink/ca.crt",
            "build --tls_client_certificate=/etc/nativelink/client.crt",
            "build --tls_client_key=/etc/nativelink/client.key",
        ]
    return "\n".join(lines)


def _jobs(kit: Kit) -> int:
    """Enough to make a pool grow, and not more than Bazel's own limit of what is sensible."""
    return min(500, max(50, 8 * max(pool.max for pool in kit.settings.pools)))
