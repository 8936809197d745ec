"""What systemd is told, over a real socket."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from nativelink.cli.service_manager import ServiceManager


def listening(address: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(address)
    listener.settimeout(5)
    return listener


def test_states_arrive_as_one_message(tmp_path: Path) -> None:
    with listening(str(tmp_path / "notify")) as listener:
        ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")}).tell("READY=1", "STATUS=x")
        assert listener.recv(100) == b"READY=1\nSTATUS=x"


def test_a_socket_may_have_an_abstract_name() -> None:
    name = f"nativelink-test-{os.getpid()}"
    with listening(f"\0{name}") as listener:
        ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).tell("READY=1")
        assert listener.recv(100) == b"READY=1"


def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    ServiceManager({}).tell("READY=1")
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell("READY=1")


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_the_watchdog_is_for_who_was_asked(environ: dict[str, str], watchdog_s: float) -> None:
    assert ServiceManager(environ).watchdog_s == watchdog_s


async def test_a_loop_that_runs_says_so_again_and_again(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with listening(address) as listener:
        listener.setblocking(False)
        manager = ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000"})
        async with asyncio.TaskGroup() as group:
            task = group.create_task(manager.stay_alive())
            loop = asyncio.get_running_loop()
            said = [await loop.sock_recv(listener, 100) for _ in range(2)]
            task.cancel()
    assert said == [b"WATCHDOG=1"] * 2
