"""An origin of downloads that may ask the sites of a test."""

from __future__ import annotations

import ipaddress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nativelink.core.errors import NativeLinkError
from nativelink.core.hosts import parse_host_pattern
from nativelink.core.streams import BytesSink
from nativelink.transport.http_client.addresses import AddressPolicy
from nativelink.transport.http_client.origin import HttpOrigin, OriginSettings, origin_tls

LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
BODY = bytes(range(256)) * 5000
#: Reading all of the machine's authorities takes longer than most tests.
tls_with = cache(origin_tls)


def origin(
    *hosts: str,
    networks: tuple[Any, ...] = (LOOPBACK,),
    ca_file: Path | None = None,
    names: dict[str, list[list[str]]] | None = None,
    **settings: Any,
) -> HttpOrigin:
    """One that may ask some hosts; `names` are addresses, look-up by look-up."""

    async def lookup(host: str, _port: int) -> list[str]:
        answers = (names or {}).get(host, [[host]])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    return HttpOrigin(
        OriginSettings(
            tuple(map(parse_host_pattern, hosts or ("127.0.0.1:*",))),
            AddressPolicy(networks),
            **{"allow_http": True, **settings},
        ),
        tls_with(ca_file),
        lookup=lookup,
    )


async def read(from_: HttpOrigin, url: str, headers: tuple[tuple[str, str], ...] = ()) -> bytes:
    sink = BytesSink()
    await from_.read(url, headers, sink)
    return sink.getvalue()


async def refused(from_: HttpOrigin, url: str, **options: Any) -> NativeLinkError:
    with pytest.raises(NativeLinkError) as raised:
        await read(from_, url, **options)
    return raised.value
