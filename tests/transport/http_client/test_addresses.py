"""Connections go to the public internet, unless a network was named."""

import asyncio
import ipaddress
import socket
import threading

import pytest

from nativelink.core.errors import Code, NativeLinkError
from nativelink.transport.http_client.addresses import AddressPolicy, SystemLookup, resolve

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "172.32.0.1",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]
OTHERS = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.8.8.8",
    "168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192",
    "192.168.1.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe",
    "64:ff9b::7f00:1", "64:ff9b:1::1", "2001::1", "2002:7f00:1::", "fc00::1", "fd00:ec2::254",
    "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
    "localhost", "", "1.1.1.1 ",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_the_public_internet_is_allowed(address: str) -> None:
    assert AddressPolicy().allows(address)


@pytest.mark.parametrize("address", OTHERS)
def test_everything_else_is_not(address: str) -> None:
    assert not AddressPolicy().allows(address)


def test_what_python_calls_private_is_never_allowed() -> None:
    policy = AddressPolicy()
    for first in range(256):
        for second in (0, 31, 64, 127, 168, 254, 255):
            address = ipaddress.ip_address(f"{first}.{second}.0.1")
            if address.is_private or address.is_multicast or address.is_reserved:
                assert not policy.allows(str(address)), address


def test_a_network_that_was_named_is_allowed_in_every_spelling() -> None:
    policy = AddressPolicy([ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd12::/16")])

    assert policy.allows("10.255.0.1")
    assert policy.allows("::ffff:10.255.0.1")
    assert policy.allows("fd12::1")
    assert not policy.allows("192.168.0.1")
    assert not policy.allows("fd13::1")


async def test_only_allowed_addresses_come_out_of_a_look_up() -> None:
    async def lookup(host: str, port: int) -> list[str]:
        assert (host, port) == ("example.org", 443)
        return ["8.8.8.8", "127.0.0.1", "1.1.1.1"]

    assert await resolve("example.org", 443, AddressPolicy(), lookup) == ["8.8.8.8", "1.1.1.1"]


async def test_a_name_of_private_addresses_is_refused() -> None:
    async def lookup(_host: str, _port: int) -> list[str]:
        return ["169.254.169.254", "::ffff:127.0.0.1"]

    with pytest.raises(NativeLinkError, match="public internet") as raised:
        await resolve("rebound.example.org", 443, AddressPolicy(), lookup)
    assert raised.value.code is Code.PERMISSION_DENIED
    assert not raised.value.retryable


async def test_the_machine_looks_up_addresses_and_its_own_name() -> None:
    lookup = SystemLookup()
    assert list(await lookup("192.0.2.7", 443)) == ["192.0.2.7"]
    assert set(await lookup("localhost", 80)) & {"127.0.0.1", "::1"}
    # What only looks like a name: the check is of what it stands for.
    assert list(await lookup("2130706433", 80)) == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), Code.NOT_FOUND),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), Code.UNAVAILABLE),
        (OSError("no file descriptors"), Code.UNAVAILABLE),
    ],
)
async def test_a_failed_look_up_says_whether_it_is_worth_another_try(
    monkeypatch: pytest.MonkeyPatch, error: OSError, code: Code
) -> None:
    def fails(*_args: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    with pytest.raises(NativeLinkError) as raised:
        await SystemLookup()("nobody.example.org", 443)

    assert raised.value.code is code
    assert raised.value.retryable == (code is Code.UNAVAILABLE)


async def test_names_whose_servers_are_gone_keep_nobody_but_downloads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_go = threading.Event()

    def hangs(*_args: object, **_options: object) -> list[object]:
        may_go.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    lookup = SystemLookup()
    async with asyncio.TaskGroup() as tasks:
        for number in range(40):
            tasks.create_task(lookup(f"{number}.gone.example.org", 443))
        await asyncio.sleep(0)
        try:
            # Uploads are hashed in the loop's own threads, which are few.
            async with asyncio.timeout(60):
                assert await asyncio.to_thread(hash, "x") == hash("x")
        finally:
            may_go.set()
