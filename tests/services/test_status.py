"""Health over HTTP: verdicts, time-outs, one run for many askers."""

import asyncio
import json
from typing import Any

import pytest

from nativelink.core.digest import DigestFunction
from nativelink.core.errors import unavailable
from nativelink.core.rpc import HttpRequest, HttpResponse, Peer
from nativelink.services.status import (
    Health,
    HealthRegistry,
    HealthResult,
    status_route,
    store_check,
)
from nativelink.stores.noop import NoopStore
from nativelink.testing.fakes import DictStore, FakeClock

SHA = DigestFunction.SHA256


class Checks:
    """A registry with what it observed."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.observed: list[HealthResult] = []
        self.registry = HealthRegistry(clock=self.clock, observe=self.observed.append)

    async def page(self, timeout_s: float = 5, method: str = "GET") -> tuple[int, Any]:
        route = status_route(self.registry, path="/status", timeout_s=timeout_s)
        request = HttpRequest(method, "/status", "", (), b"", Peer("test:1"))
        response: HttpResponse = await route.handler(request)
        assert response.content_type == "application/json; charset=utf-8"
        return response.status, json.loads(response.body)


async def test_a_process_without_components_is_well():
    assert await Checks().page() == (200, [])


async def test_a_store_that_reads_back_what_was_written_is_ok():
    checks = Checks()
    store = DictStore()
    checks.registry.add(
        "/nativelink/stores/CAS/DictStore",
        "DictStore",
        store_check(store, size_bytes=1000, function=SHA),
    )
    assert await checks.page() == (
        200,
        [
            {
                "namespace": "/nativelink/stores/CAS/DictStore",
                "status": {
                    "Ok": {"struct_name": "DictStore", "message": "wrote and read 1000 bytes"}
                },
            }
        ],
    )
    ((digest, blob),) = store.blobs.items()
    assert digest == SHA.digest_of(blob)
    assert len(blob) == 1000


async def test_a_store_that_forgets_fails():
    check = store_check(NoopStore(), size_bytes=10, function=SHA)
    health, message = await check()
    assert health is Health.FAILED
    assert "absent" in message


async def test_a_store_that_gives_other_bytes_fails():
    class Garbling(DictStore):
        async def put(self, key: Any, source: Any) -> int:
            size = await super().put(key, source)
            self.blobs[key] = bytes(size)
            return size

    health, message = await store_check(Garbling(), size_bytes=10, function=SHA)()
    assert health is Health.FAILED
    assert "does not read as it was written" in message


@pytest.mark.parametrize(
    ("error", "message"),
    [(unavailable("disk on fire"), "UNAVAILABLE: disk on fire"), (KeyError("x"), "KeyError('x')")],
)
async def test_an_error_of_one_component_is_a_503_that_shows_all(error: Exception, message: str):
    checks = Checks()

    async def fails() -> tuple[Health, str]:
        raise error

    async def fine() -> tuple[Health, str]:
        return Health.OK, "fine"

    checks.registry.add("/a", "A", fails)
    checks.registry.add("/b", "B", fine)
    status, body = await checks.page()
    assert status == 503
    assert [entry["namespace"] for entry in body] == ["/a", "/b"]
    assert body[0]["status"] == {"Failed": {"struct_name": "A", "message": message}}


async def test_warnings_are_no_failure():
    checks = Checks()

    async def warns() -> tuple[Health, str]:
        return Health.WARNING, "nearly full"

    checks.registry.add("/a", "A", warns)
    status, body = await checks.page(method="HEAD")
    assert status == 200
    assert "Warning" in body[0]["status"]


async def test_a_check_that_hangs_times_out_alone():
    checks = Checks()

    async def hangs() -> tuple[Health, str]:
        await asyncio.Event().wait()
        raise AssertionError

    async def fine() -> tuple[Health, str]:
        return Health.OK, "fine"

    checks.registry.add("/a", "A", hangs)
    checks.registry.add("/b", "B", fine)
    status, body = await checks.page(timeout_s=0.01)
    assert status == 503
    assert body[0]["status"] == {"Timeout": {"struct_name": "A"}}
    assert "Ok" in body[1]["status"]
    assert [result.health for result in checks.observed] == [Health.TIMEOUT, Health.OK]


async def test_results_of_the_last_second_are_given_again_and_older_ones_are_not():
    checks = Checks()
    runs = 0

    async def counts() -> tuple[Health, str]:
        nonlocal runs
        runs += 1
        return Health.OK, str(runs)

    checks.registry.add("/a", "A", counts)
    await checks.page()
    checks.clock.advance(0.9)
    await checks.page()
    assert runs == 1
    checks.clock.advance(0.2)
    _, body = await checks.page()
    assert body[0]["status"]["Ok"]["message"] == "2"


async def test_many_askers_share_one_run_even_if_the_first_one_goes_away():
    checks = Checks()
    go = asyncio.Event()
    runs = 0

    async def slow() -> tuple[Health, str]:
        nonlocal runs
        runs += 1
        await go.wait()
        return Health.OK, ""

    checks.registry.add("/a", "A", slow)
    first = asyncio.create_task(checks.page())
    second = asyncio.create_task(checks.page())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    go.set()
    status, _ = await second
    assert (status, runs) == (200, 1)
