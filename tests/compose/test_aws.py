"""What a process says about its TLS files on AWS."""

from __future__ import annotations

from nativelink.compose.aws import _expiries
from nativelink.telemetry.meter import Registry
from nativelink.telemetry.metrics import CONNECTIONS, TLS_EXPIRY_TIME


def test_every_tls_file_in_use_has_its_expiry() -> None:
    registry = Registry()
    assert list(_expiries(registry)) == []
    registry.observe(CONNECTIONS, lambda: [(("clients",), 7)])
    for server, at in (("clients", 1000.0), ("workers", 500.0)):
        registry.observe(
            TLS_EXPIRY_TIME,
            lambda server=server, at=at: [((server, "cert_file"), at)],
        )
    assert sorted(_expiries(registry)) == [500.0, 1000.0]
