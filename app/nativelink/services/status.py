"""Health over HTTP: every component's check, for load balancers and for people.

The answer has NativeLink's shape: a JSON list with one entry per component, 200 if all of them are
well and 503 if any failed or took too long. Every leaf of a composed store is a component of its
own, so a broken disk behind three wrappers is seen.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from nativelink.core.clock import Clock
from nativelink.core.digest import DigestFunction
from nativelink.core.eager import begin, run_all
from nativelink.core.errors import NativeLinkError
from nativelink.core.rpc import HttpRequest, HttpResponse, HttpRoute
from nativelink.stores.store import Store, has_one, read_bytes, write_bytes

__all__ = [
    "Health",
    "HealthRegistry",
    "HealthResult",
    "remote_check",
    "status_route",
    "store_check",
]

#: What several load balancers ask within this time is answered from one run of the checks.
_REUSE_S: Final = 1.0
_JSON: Final = "application/json; charset=utf-8"


class Health(Enum):
    """How a component is; the values are the wire's."""

    OK = "Ok"
    INITIALIZING = "Initializing"
    WARNING = "Warning"
    FAILED = "Failed"
    TIMEOUT = "Timeout"


@dataclass(frozen=True, slots=True)
class HealthResult:
    """What a check found.

    Attributes:
        namespace: `/nativelink/stores/{name}/{type}`.
        struct_name: the component's type.
        health: how it is.
        message: why; empty for a time-out.
    """

    namespace: str
    struct_name: str
    health: Health
    message: str = ""


#: A check gives its verdict, or raises: then the component failed.
Check = Callable[[], Awaitable[tuple[Health, str]]]


class HealthRegistry:
    """The checks of all components, run together.

    Args:
        clock: for the age of results.
        observe: told every result of every run, for metrics.
    """

    def __init__(self, *, clock: Clock, observe: Callable[[HealthResult], None]) -> None:
        self._clock = clock
        self._observe = observe
        self._checks: list[tuple[str, str, Check]] = []
        self._running: asyncio.Task[list[HealthResult]] | None = None
        self._results: list[HealthResult] = []
        self._checked_at = float("-inf")

    def add(self, namespace: str, struct_name: str, check: Check) -> None:
        """Add a component."""
        self._checks.append((namespace, struct_name, check))

    async def results(self, timeout_s: float) -> Sequence[HealthResult]:
        """How every component is.

        Whoever asks while a run is under way gets that run's results, also if the caller that
        began it is cancelled; results of the last second are given again.

        Args:
            timeout_s: seconds that each check may take.
        """
        running = self._running
        if running is None:
            if self._clock.monotonic() - self._checked_at < _REUSE_S:
                return self._results
            begun = begin(self._run(timeout_s), asyncio.get_running_loop())
            if isinstance(begun, tuple):
                return begun[0]
            running = self._running = begun
        return await asyncio.shield(running)

    async def _run(self, timeout_s: float) -> list[HealthResult]:
        try:
            results = await run_all(
                _checked(namespace, struct_name, check, timeout_s)
                for namespace, struct_name, check in self._checks
            )
            self._results = results
            self._checked_at = self._clock.monotonic()
        finally:
            self._running = None
        for result in results:
            self._observe(result)
        return results


async def _checked(
    namespace: str, struct_name: str, check: Check, timeout_s: float
) -> HealthResult:
    try:
        async with asyncio.timeout(timeout_s):
            health, message = await check()
    except TimeoutError:
        return HealthResult(namespace, struct_name, Health.TIMEOUT)
    except NativeLinkError as error:
        return HealthResult(
            namespace, struct_name, Health.FAILED, f"{error.code.name}: {error.message}"
        )
    except Exception as error:  # noqa: BLE001 - a check that breaks is a component that failed
        return HealthResult(namespace, struct_name, Health.FAILED, f"{error!r}")
    return HealthResult(namespace, struct_name, health, message)


def store_check(store: Store, *, size_bytes: int, function: DigestFunction) -> Check:
    """A check that writes a blob, asks for it and reads it back.

    Args:
        store: a leaf.
        size_bytes: size of the blob; its content is always the same.
        function: names the blob.
    """
    # Bytes that neither compression nor a sparse file makes smaller, the same in every process.
    blob = hashlib.shake_128(b"nativelink health check").digest(size_bytes)
    digest = function.digest_of(blob)

    async def check() -> tuple[Health, str]:
        await write_bytes(store, digest, blob)
        size = await has_one(store, digest)
        if size is None:
            what = "is absent just after it was written: is the store, or its disk, full?"
            return Health.FAILED, f"{digest} {what}"
        if size != size_bytes:
            return Health.FAILED, f"{digest} has {size} bytes instead of {size_bytes}"
        if await read_bytes(store, digest, max_size=size_bytes) != blob:
            return Health.FAILED, f"{digest} does not read as it was written"
        return Health.OK, f"wrote and read {size_bytes} bytes"

    return check


def remote_check(store: Store, *, function: DigestFunction) -> Check:
    """A check that asks for a blob, which need not be there: the other server's disk is its own.

    Args:
        store: what is behind another server.
        function: names the blob.
    """
    digest = function.digest_of(b"nativelink health check")

    async def check() -> tuple[Health, str]:
        await store.has((digest,))
        return Health.OK, "the upstream answered"

    return check


def status_route(registry: HealthRegistry, *, path: str, timeout_s: float) -> HttpRoute:
    """The health page. Any method is answered, as load balancers differ.

    Args:
        registry: the checks.
        path: where.
        timeout_s: seconds that each check may take.
    """

    async def status(request: HttpRequest) -> HttpResponse:
        del request
        results = await registry.results(timeout_s)
        failing = any(result.health in (Health.FAILED, Health.TIMEOUT) for result in results)
        return HttpResponse(
            503 if failing else 200,
            # A line for each, for those who look at it by curl.
            b"[%s]\n" % ",\n".join(json.dumps(_as_json(each)) for each in results).encode(),
            content_type=_JSON,
            headers={"cache-control": "no-store"},
        )

    return HttpRoute(path, status)


def _as_json(result: HealthResult) -> dict[str, object]:
    about = {"struct_name": result.struct_name}
    if result.health is not Health.TIMEOUT:
        about["message"] = result.message
    return {"namespace": result.namespace, "status": {result.health.value: about}}
